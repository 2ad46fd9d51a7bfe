package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

type revokeSettings struct {
	nodes, times, healed int
	away, pace           float64
	dir                  string
}

func revokeTrial() *cobra.Command {
	var s revokeSettings
	c := &cobra.Command{
		Use:   "revoke",
		Short: "Measure how long a revocation takes to reach the last token of the last node",
		Long: `Runs fifty nodes in this process, each connected to all others over loopback and with files of its own. Each
writes an answer that does not end, at a reader's pace. One member after the other publishes an expert, and revokes
it once every node writes with it. What is measured for each node is the time from the call to the moment after which no token with
the expert came: the swap of the mixture, or the last token if that came later.

Then some of the nodes are cut off from the rest, a revocation is signed on the other side, and the time counts from the moment at
which they are joined again. The cut is made in a network namespace of the trial's own, by rules that refuse what goes across, and
by ending the connections across: it needs Linux, ip and ss.

All nodes share this machine's processors and its disk, which nodes in the world do not. The trial fails if a token with the expert came after
one without it, or more than one after the swap, or if the 99th percentile is above 250 ms.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			done, err := alone(c.Context())
			if done || err != nil {
				return err
			}
			return runRevoke(c.Context(), s)
		},
	}
	c.Flags().IntVar(&s.nodes, "nodes", 50, "nodes")
	c.Flags().IntVar(&s.times, "times", 20, "revocations while all are connected")
	c.Flags().IntVar(&s.healed, "healed", 5, "revocations while some are cut off")
	c.Flags().Float64Var(&s.away, "away", 0.3, "share of the nodes that is cut off")
	c.Flags().Float64Var(&s.pace, "pace", 20, "tokens a second that each node writes; 0: as many as it can")
	c.Flags().StringVar(&s.dir, "dir", "", "folder for the nodes' homes (default: a temporary one)")
	return c
}

// revokeWithin is the aim for the 99th percentile, over nodes and revocations.
const revokeWithin = 250 * time.Millisecond

func runRevoke(ctx context.Context, r revokeSettings) error {
	dir, err := os.MkdirTemp(r.dir, "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	away := int(float64(r.nodes) * r.away)
	places := make([]place, r.nodes)
	for i := range places {
		side := 1
		if i >= r.nodes-away {
			side = 2
		}
		places[i] = place{listen: fmt.Sprintf("/ip4/127.%d.0.%d/tcp/0", side, i+1), api: "127.0.0.1:0"}
	}
	c, err := found(ctx, dir, 24*60*60, places)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "starting %d nodes\n", r.nodes)
	began := time.Now()
	s, err := start(ctx, c, r.pace)
	defer s.close()
	if err != nil {
		return err
	}
	all := s.everyone()
	if err := s.await(ctx, "a connection to every other node", all, func(n *node.Node) bool { return len(n.Host().Connected()) == r.nodes-1 }); err != nil {
		return err
	}
	fmt.Printf("%d nodes, each connected to all others after %.1f s, each at %g tokens a second; %d processors\n",
		r.nodes, time.Since(began).Seconds(), r.pace, runtime.GOMAXPROCS(0))

	t := &tally{}
	var together revocations
	for i := range r.times {
		if err := s.revocation(ctx, uint64(2+i), (1+i)%r.nodes, all, nil, &together); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "revocation %d of %d: the last node after %.0f ms\n", i+1, r.times, ms(together.last[i]))
	}
	var apart revocations
	for i := range r.healed {
		if err := s.revocation(ctx, uint64(2+r.times+i), i%(r.nodes-away), all, all[r.nodes-away:], &apart); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "revocation %d of %d while some were cut off: the last of them after %.0f ms\n", i+1, r.healed, ms(apart.last[i]))
	}
	together.print(fmt.Sprintf("%d revocations while all are connected, %d nodes each; ms from the call", r.times, r.nodes))
	if r.healed > 0 {
		apart.print(fmt.Sprintf("%d revocations while %d nodes were cut off, those alone; ms from the healing", r.healed, away))
	}
	var errs []error
	for i, d := range s.diaries {
		errs = append(errs, d.err)
		if d.all == 0 {
			errs = append(errs, fmt.Errorf("node %d wrote nothing", i))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, v := range []*revocations{&together, &apart} {
		t.check(v.back == 0, "no token with a revoked expert after one without it, in %d cases: %d", len(v.cases), v.back)
		t.check(v.after == 0, "no token with it later than %v after the swap, in %d cases: %d", swapGrace, len(v.cases), v.after)
	}
	p99 := percentile(together.of(sighting.total), 99)
	t.check(p99 < revokeWithin, "from the call to the last token, 99th percentile of nodes and revocations: %.0f ms, below %v", ms(p99), revokeWithin)
	return t.verdict()
}

// swapGrace is how long a token may take from its choice to where the trial sees it.
const swapGrace = 50 * time.Millisecond

// A sighting is one revocation as one node saw it.
type sighting struct {
	began                time.Time // of the call, or of the healing
	signed               time.Time // durable with the owner
	came                 time.Time // by gossip; zero: it came by synchronisation, or this is the owner
	swapped, last, ended time.Time
}

func (c sighting) total() time.Duration { return c.ended.Sub(c.began) }
func (c sighting) gossip() time.Duration {
	return c.came.Sub(later(c.signed, c.began))
}
func (c sighting) swap() time.Duration  { return c.swapped.Sub(c.came) }
func (c sighting) token() time.Duration { return c.ended.Sub(c.swapped) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

type revocations struct {
	cases       []sighting
	gossiped    []sighting      // of cases, those that heard of it by gossip
	last        []time.Duration // of each revocation, the last node's
	signing     []time.Duration // of each revocation, until it was durable with the owner
	back, after int             // tokens that must not be
}

// revocation has member owner publish an expert and revoke it once all use it, and adds what the nodes did. If some
// are away, they are cut off meanwhile and joined again afterwards, and what they did counts from then.
func (s *swarm) revocation(ctx context.Context, seed uint64, owner int, all, away []int, v *revocations) error {
	p, err := s.expert(seed)
	if err != nil {
		return err
	}
	offer, err := s.nodes[owner].Publish(ctx, p)
	if err != nil {
		return err
	}
	if err := s.await(ctx, "use of the expert", all, uses(offer)); err != nil {
		return err
	}
	if err := s.await(ctx, "a token with the expert", all, func(n *node.Node) bool { return s.diaries[slices.Index(s.nodes, n)].of(offer).count > 3 }); err != nil {
		return err
	}
	s.calm(ctx)
	counted := all
	if away != nil {
		counted = away
		if err := cut(ctx); err != nil {
			return err
		}
		near := len(all) - len(away)
		err := s.await(ctx, "the loss of the others", away, func(n *node.Node) bool { return len(n.Host().Connected()) <= len(away)-1 })
		if err == nil {
			err = s.await(ctx, "the loss of the others", all[:near], func(n *node.Node) bool { return len(n.Host().Connected()) <= near-1 })
		}
		if err != nil {
			return err
		}
	}
	changed := s.nodes[owner].Ledger().Changed()
	stored := make(chan time.Time, 1)
	go func() {
		<-changed
		stored <- time.Now()
	}()
	began := time.Now()
	id, err := s.nodes[owner].Revoke(ctx, offer, "the trial's member leaves")
	if err != nil {
		return err
	}
	signed := <-stored
	v.signing = append(v.signing, signed.Sub(began))
	if away != nil {
		if err := s.await(ctx, "the end of the expert", all[:len(all)-len(away)], func(n *node.Node) bool { return !uses(offer)(n) }); err != nil {
			return err
		}
		for _, i := range away {
			if !uses(offer)(s.nodes[i]) {
				return fmt.Errorf("%s was cut off and has heard of the revocation", s.nodes[i].Member())
			}
		}
		began = time.Now()
		if err := heal(ctx); err != nil {
			return err
		}
	}
	if err := s.await(ctx, "the end of the expert", counted, func(n *node.Node) bool { return !uses(offer)(n) }); err != nil {
		return err
	}
	if err := s.await(ctx, "a connection to every other node", all, func(n *node.Node) bool { return len(n.Host().Connected()) == len(all)-1 }); err != nil {
		return err
	}
	s.calm(ctx)
	var last time.Duration
	for _, i := range counted {
		one, w := s.witness(i, offer, id, began, signed)
		v.cases = append(v.cases, one)
		if !one.came.IsZero() {
			v.gossiped = append(v.gossiped, one)
		}
		last = max(last, one.total())
		v.back += w.back
		if one.token() > swapGrace {
			v.after++
		}
	}
	v.last = append(v.last, last)
	return nil
}

// witness returns what node i did about a revocation.
func (s *swarm) witness(i int, offer, revocation cid.Cid, began, signed time.Time) (sighting, tokens) {
	d := s.diaries[i]
	w := d.of(offer)
	c := sighting{began: began, signed: signed, last: w.last}
	c.came = d.came(revocation)
	c.swapped = d.swapped(began)
	c.ended = later(c.swapped, c.last)
	return c, w
}

// calm waits until what the last publication or revocation had the nodes do has probably been done.
func (s *swarm) calm(ctx context.Context) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

func (v *revocations) of(what func(sighting) time.Duration) []time.Duration {
	return durations(v.cases, what)
}

func durations(cases []sighting, what func(sighting) time.Duration) (all []time.Duration) {
	for _, c := range cases {
		all = append(all, what(c))
	}
	return all
}

// print shows where the time went.
func (v *revocations) print(title string) {
	fmt.Printf("\n%s\n%-52s %8s %8s %8s\n", title, "", "p50", "p99", "max")
	row := func(what string, all []time.Duration) {
		fmt.Printf("%-52s %8.1f %8.1f %8.1f\n", what, ms(percentile(all, 50)), ms(percentile(all, 99)), ms(percentile(all, 100)))
	}
	row("until no token came with it, each node", v.of(sighting.total))
	row("  the last node of each revocation", v.last)
	row("  signed and durable with the owner", v.signing)
	row("  gossip: from there to the node", durations(v.gossiped, sighting.gossip))
	row("  checked, durable, and the mixture swapped", durations(v.gossiped, sighting.swap))
	row("  token boundary: what was being computed", v.of(sighting.token))
	fmt.Printf("%d of %d heard of it by gossip, the others (the owner too) by synchronisation or themselves\n", len(v.gossiped), len(v.cases))
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// percentile returns the smallest of all that p percent of them are not above.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.SortedFunc(slices.Values(all), cmp.Compare[time.Duration])
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
