package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"
)

type processSettings struct {
	nodes int
	seeds []uint64
	span  time.Duration
}

func processesTrial() *cobra.Command {
	var s processSettings
	var first uint64
	var seeds int
	c := &cobra.Command{
		Use:   "processes",
		Short: "Kill, cut off and restore nodes that are processes, and look for what consent forbids",
		Long: `Runs twenty nodes as processes of the chorus command. Members publish and revoke, while processes are killed with SIGKILL, often
in the midst of that, homes are put back from copies, and the network is cut in two and joined, as a seed says. Local programs ask every node
for tokens throughout. From outside, by what the nodes answer, these are held against them:

  I1  no token with an expert in an answer that began after the node said that the expert is revoked, nor one after a token without it
  I2  no token with an expert after the end of the last lease on it
  I3  joined and running again, all nodes soon have the same notices
  I4  an expert that a node said is revoked is not in use after a restart, nor a restore from a copy that knows of it
  I5  nobody has signed two notices with one number, also after restores
  I6  what a node had, and what a publication or revocation returned, is there after a SIGKILL

The network is a namespace of the trial's own, cut by rules: it needs Linux, ip and ss.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if done, err := alone(c.Context()); done || err != nil {
				return err
			}
			for i := range seeds {
				s.seeds = append(s.seeds, first+uint64(i))
			}
			return runProcesses(c.Context(), s)
		},
	}
	c.Flags().IntVar(&s.nodes, "nodes", 20, "nodes")
	c.Flags().Uint64Var(&first, "seed", 1, "the first seed")
	c.Flags().IntVar(&seeds, "seeds", 3, "how many seeds, one after the other")
	c.Flags().DurationVar(&s.span, "span", 45*time.Second, "how long things go wrong with each seed")
	return c
}

func runProcesses(ctx context.Context, s processSettings) error {
	dir, chorus, err := trialFolder(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &tally{}
	for _, seed := range s.seeds {
		w := &world{chorus: chorus, rng: rand.New(rand.NewPCG(seed, 0)), offers: make(map[cid.Cid]*offered)}
		err := w.run(ctx, filepath.Join(dir, fmt.Sprint(seed)), s)
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
		fmt.Printf("seed %d: %s\n", seed, w.did)
		for _, what := range w.broken {
			fmt.Println("         ", what)
		}
		t.check(len(w.broken) == 0, "seed %d: every invariant, by %d tokens of %d nodes, %d of them with experts", seed, w.tokens, s.nodes, w.with)
	}
	return t.verdict()
}

const (
	processLease = 40 // seconds: some end while their owner is away
	inStep       = 2 * time.Minute
)

// A world is one consortium of processes, and what is known of it from outside.
type world struct {
	*consortium
	chorus string
	rng    *rand.Rand
	nodes  []*process
	whole  bool // the network is

	mu     sync.Mutex
	broken []string             // guarded by mu
	offers map[cid.Cid]*offered // guarded by mu
	kept   []cid.Cid            // guarded by mu: revocations that were said to be with another member
	tokens int                  // guarded by mu
	with   int                  // guarded by mu: of tokens, those that an expert took part in
	did    deeds                // guarded by mu
}

type deeds struct{ published, revoked, killed, restored, cut int }

func (d deeds) String() string {
	return fmt.Sprintf("%d publications, %d revocations, %d kills, %d restores from a copy, %d cuts", d.published, d.revoked, d.killed, d.restored, d.cut)
}

// offered is an expert that a publication returned.
type offered struct {
	owner   int
	revoked bool // or has begun to be
}

func (w *world) breach(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.broken) < 20 {
		w.broken = append(w.broken, fmt.Sprintf(format, args...))
	}
}

func (w *world) run(ctx context.Context, dir string, s processSettings) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var places []place
	for i := range s.nodes {
		// In a network of its own every port is free.
		places = append(places, place{fmt.Sprintf("/ip4/127.%d.0.%d/tcp/4001", 1+i%2, i+1), fmt.Sprintf("127.0.0.1:%d", 10_000+i)})
	}
	if w.consortium, err = found(ctx, dir, processLease, places); err != nil {
		return err
	}
	addresses, err := w.addresses(places)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer func() {
		cancel()
		asking.Wait()
		for _, p := range w.nodes {
			p.kill()
		}
	}()
	for i, home := range w.homes {
		if err := w.befriend(i, slices.Concat(addresses[:i], addresses[i+1:])); err != nil {
			return err
		}
		p := newProcess(w.chorus, home, "http://"+places[i].api)
		w.nodes = append(w.nodes, p)
		if err := p.start(); err != nil {
			return err
		}
		asking.Go(func() { w.ask(ctx, p) })
		asking.Go(func() { w.look(ctx, p) })
	}
	w.whole = true
	if err := w.settle(ctx); err != nil {
		return err
	}
	for end := time.Now().Add(s.span); time.Now().Before(end) && ctx.Err() == nil; {
		if err := w.act(ctx); err != nil {
			return err
		}
		w.pause(ctx, 400*time.Millisecond)
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// addresses returns where each node is, as peers name it.
func (w *world) addresses(places []place) (all []string, err error) {
	for i, m := range w.charter.Body.(*notice.Charter).Members {
		pub, err := crypto.UnmarshalEd25519PublicKey(m.Node[:])
		if err != nil {
			return nil, err
		}
		id, err := peer.IDFromPublicKey(pub)
		if err != nil {
			return nil, err
		}
		all = append(all, places[i].listen+"/p2p/"+id.String())
	}
	return all, nil
}

// pause waits for a while up to at most.
func (w *world) pause(ctx context.Context, most time.Duration) {
	select {
	case <-time.After(time.Duration(w.rng.Int64N(int64(most)))):
	case <-ctx.Done():
	}
}

// some returns a node at random that is up or down, or nil.
func (w *world) some(up bool) *process {
	var all []*process
	for _, p := range w.nodes {
		if p.up() == up {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.rng.IntN(len(all))]
}

// act does one thing at random.
func (w *world) act(ctx context.Context) error {
	switch n := w.rng.IntN(21); {
	case n < 5:
		return w.publish(ctx)
	case n < 10:
		w.revoke(ctx)
	case n < 12:
		if p := w.some(true); p != nil {
			w.strike(ctx, p)
		}
	case n < 17:
		if p := w.some(false); p != nil {
			return p.start()
		}
	case n < 18:
		return w.copy(ctx)
	case n < 20:
		return w.restore(ctx)
	case w.whole:
		w.whole = false
		w.did.cut++
		return cut(ctx)
	default:
		w.whole = true
		return heal(ctx)
	}
	return nil
}

// strike kills a node and takes note of what it had.
func (w *world) strike(ctx context.Context, p *process) {
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	had, err := p.notices(asking)
	if err != nil {
		had = nil // it may not have come up yet
	}
	p.kill()
	p.remember(had)
	w.mu.Lock()
	w.did.killed++
	w.mu.Unlock()
}

// copy copies the home of a node, which is killed for it if need be.
func (w *world) copy(ctx context.Context) error {
	p := w.nodes[w.rng.IntN(len(w.nodes))]
	if p.up() {
		w.strike(ctx, p)
	}
	return p.copyHome()
}

// restore puts a copy in the place of a home. While the network is cut, or others are away, the node could not hear how
// far its own feed went, and might sign a second notice with one number: people who restore see to that.
func (w *world) restore(ctx context.Context) error {
	if !w.whole {
		return nil
	}
	for _, i := range w.rng.Perm(len(w.nodes)) {
		p := w.nodes[i]
		if !p.hasCopy() {
			continue
		}
		if p.up() {
			w.strike(ctx, p)
		}
		for _, other := range w.nodes {
			if other != p && !other.up() {
				if err := other.start(); err != nil {
					return err
				}
			}
		}
		w.did.restored++
		if err := p.restoreHome(); err != nil {
			return err
		}
		return p.start()
	}
	return nil
}

// publish has a member publish an expert, and often kills somebody meanwhile.
func (w *world) publish(ctx context.Context) error {
	p := w.some(true)
	if p == nil {
		return nil
	}
	owner := slices.Index(w.nodes, p)
	expert, err := w.expert(w.rng.Uint64())
	if err != nil {
		return err
	}
	expert.WithinSeconds = 5
	w.amid(ctx, p, func(ctx context.Context) {
		c, err := p.control(ctx)
		if err != nil {
			return
		}
		offer, err := c.Publish(ctx, expert)
		if err != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.offers[offer] = &offered{owner: owner}
		w.did.published++
	})
	return nil
}

// revoke has a member revoke an expert, and often kills somebody meanwhile.
func (w *world) revoke(ctx context.Context) {
	var live []cid.Cid
	w.mu.Lock()
	for offer, o := range w.offers {
		if !o.revoked && w.nodes[o.owner].up() {
			live = append(live, offer)
		}
	}
	w.mu.Unlock()
	if len(live) == 0 {
		return
	}
	slices.SortFunc(live, notice.CompareCID)
	offer := live[w.rng.IntN(len(live))]
	w.mu.Lock()
	w.offers[offer].revoked = true
	p := w.nodes[w.offers[offer].owner]
	w.mu.Unlock()
	w.amid(ctx, p, func(ctx context.Context) {
		c, err := p.control(ctx)
		if err != nil {
			return
		}
		id, err := c.Revoke(ctx, offer, "the trial's member leaves")
		if err != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.kept = append(w.kept, id)
		w.did.revoked++
	})
}

// amid calls do, and half of the time kills p, or another node, in the midst of it.
func (w *world) amid(ctx context.Context, p *process, do func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(ctx)
	}()
	if w.rng.IntN(2) == 0 {
		if w.rng.IntN(2) == 0 {
			p = w.some(true)
		}
		w.pause(ctx, 150*time.Millisecond)
		if p != nil && p.up() {
			w.strike(ctx, p)
		}
	}
	<-done
}

// settle joins the network, starts every node, and waits until all have the same notices. Then it looks at them.
func (w *world) settle(ctx context.Context) error {
	if !w.whole {
		if err := heal(ctx); err != nil {
			return err
		}
		w.whole = true
	}
	for _, p := range w.nodes {
		if !p.up() {
			if err := p.start(); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for {
		same, err := w.same(ctx)
		if same {
			break
		}
		if time.Since(began) > inStep {
			if err != nil {
				return fmt.Errorf("the nodes are not up after %v: %w", inStep, err)
			}
			w.breach("I3: %v after all were joined and running the nodes have not the same notices", inStep)
			break
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return w.audit(ctx)
}

// same reports whether all nodes have the same notices.
func (w *world) same(ctx context.Context) (bool, error) {
	var first map[string]noticed
	for _, p := range w.nodes {
		all, err := p.notices(ctx)
		if err != nil {
			return false, err
		}
		if first == nil {
			first = all
			continue
		}
		if len(all) != len(first) {
			return false, nil
		}
		for id := range all {
			if _, ok := first[id]; !ok {
				return false, nil
			}
		}
	}
	return true, nil
}

// audit holds what all nodes have now against what is known from outside.
func (w *world) audit(ctx context.Context) error {
	var errs []error
	all := make(map[string]noticed)
	for _, p := range w.nodes {
		had, err := p.notices(ctx)
		errs = append(errs, err)
		for _, id := range p.lost(had) {
			w.breach("I6: %s had %s before it was killed and has it no more", p.home, id)
		}
		for id, n := range had {
			all[id] = n
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	type spot struct {
		key string
		seq uint64
	}
	feeds := make(map[spot]string)
	until := make(map[string]time.Time)
	for id, n := range all {
		if n.Seq > 0 {
			if other, ok := feeds[spot{n.Key, n.Seq}]; ok {
				w.breach("I5: %s and %s have the number %d of %s", id, other, n.Seq, n.Key)
			}
			feeds[spot{n.Key, n.Seq}] = id
		}
		for _, offer := range n.Offers {
			if n.NotAfter.After(until[offer]) {
				until[offer] = n.NotAfter
			}
		}
	}
	w.mu.Lock()
	kept, offers := slices.Clone(w.kept), make([]cid.Cid, 0, len(w.offers))
	for offer := range w.offers {
		offers = append(offers, offer)
	}
	w.mu.Unlock()
	for _, id := range slices.Concat(kept, offers) {
		if _, ok := all[id.String()]; !ok {
			w.breach("I6: %s was acknowledged and nobody has it", id)
		}
	}
	for _, p := range w.nodes {
		for offer, at := range p.lastTokens() {
			if end, ok := until[offer]; ok && at.After(end.Add(leaseGrace)) {
				w.breach("I2: %s wrote with %s at %v, its last lease ended at %v", p.home, offer, at, end)
			}
		}
	}
	return nil
}

// leaseGrace is how long a token may take from its choice to where the trial sees it.
const leaseGrace = time.Second

// ask asks a node for tokens again and again.
func (w *world) ask(ctx context.Context, p *process) {
	again := time.NewTicker(250 * time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
		began, life := time.Now(), p.life()
		before := p.saidRevoked()
		gone := make(map[string]bool)
		seen := make(map[string]bool)
		with := 0
		count, _ := p.complete(ctx, func(offers []string) { // a node that is down, or killed meanwhile, is no breach
			for offer := range seen {
				if !slices.Contains(offers, offer) {
					gone[offer] = true
				}
			}
			for _, offer := range offers {
				seen[offer] = true
				if gone[offer] && w.isRevoked(offer) {
					w.breach("I1: %s wrote with %s after it had written without", p.home, offer)
				}
				if before[offer] && p.life() == life {
					w.breach("I1, I4: %s wrote with %s in an answer that began at %v, after it had said that this is revoked", p.home, offer, began)
				}
			}
			p.wrote(offers)
			if len(offers) > 0 {
				with++
			}
		})
		w.mu.Lock()
		w.tokens += count
		w.with += with
		w.mu.Unlock()
	}
}

func (w *world) isRevoked(offer string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, o := range w.offers {
		if id.String() == offer {
			return o.revoked
		}
	}
	return false
}

// look notes what a node says is revoked.
func (w *world) look(ctx context.Context, p *process) {
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
		if what := p.say(ctx); what != "" {
			w.breach("I4: %s: %s", p.home, strings.TrimSpace(what))
		}
	}
}
