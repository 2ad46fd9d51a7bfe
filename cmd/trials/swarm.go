package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"chorus/node"
	"chorus/node/openai"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// A swarm is the nodes of a consortium, running in this process, each over real connections and on its own files, and each
// writing an answer that never ends.
type swarm struct {
	*consortium
	nodes   []*node.Node
	diaries []*diary
	writing sync.WaitGroup
	stop    context.CancelFunc
}

// start runs a node in every home. Each writes pace tokens a second; zero: as many as it can.
func start(ctx context.Context, c *consortium, pace float64) (*swarm, error) {
	s := &swarm{consortium: c}
	ctx, s.stop = context.WithCancel(ctx)
	var peers []string
	for i, home := range c.homes {
		if err := c.befriend(i, peers); err != nil {
			return s, err
		}
		d := &diary{}
		n, err := node.New(ctx, home, node.Options{Log: slog.New(d)})
		if err != nil {
			return s, err
		}
		s.nodes, s.diaries = append(s.nodes, n), append(s.diaries, d)
		peers = append(peers, n.Host().Addrs()...)
	}
	for i, n := range s.nodes {
		s.writing.Go(func() { s.diaries[i].write(ctx, n, pace) })
	}
	return s, nil
}

func (s *swarm) close() {
	s.stop()
	s.writing.Wait()
	var g errgroup.Group
	for _, n := range s.nodes {
		g.Go(n.Close)
	}
	if err := g.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "trials: closing a node:", err)
	}
}

// await waits until every node of which says that it is so.
func (s *swarm) await(ctx context.Context, what string, which []int, so func(*node.Node) bool) error {
	ctx, cancel := context.WithTimeout(ctx, swarmPatience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for _, i := range which {
		for !so(s.nodes[i]) {
			select {
			case <-look.C:
			case <-ctx.Done():
				return fmt.Errorf("%s: %s has not come in %v: %w", s.nodes[i].Member(), what, swarmPatience, ctx.Err())
			}
		}
	}
	return nil
}

// swarmPatience bounds how long a trial waits for what must happen in the end.
const swarmPatience = 3 * time.Minute

// everyone is the places of all nodes.
func (s *swarm) everyone() []int {
	all := make([]int, len(s.nodes))
	for i := range all {
		all[i] = i
	}
	return all
}

func uses(offer cid.Cid) func(*node.Node) bool {
	return func(n *node.Node) bool {
		return slices.ContainsFunc(n.Mixture().Experts, func(a node.Admitted) bool { return a.Offer == offer })
	}
}

// A diary is what one node said and wrote, and when. It is the handler of the node's log.
type diary struct {
	mu     sync.Mutex
	tokens map[string]*tokens   // guarded by mu; by offer
	heard  map[string]time.Time // guarded by mu; when a notice came by gossip
	swaps  []time.Time          // guarded by mu
	all    int                  // guarded by mu: tokens written
	err    error                // guarded by mu
}

// tokens are what a node wrote with an expert.
type tokens struct {
	count int
	last  time.Time
	ended bool // a token has come without it since
	back  int  // tokens with it after that
}

// write asks the node for one answer after another.
func (d *diary) write(ctx context.Context, n *node.Node, pace float64) {
	var tick <-chan time.Time
	if pace > 0 {
		t := time.NewTicker(time.Duration(float64(time.Second) / pace))
		defer t.Stop()
		tick = t.C
	}
	for seed := uint64(0); ctx.Err() == nil; seed++ {
		_, err := n.Generate(ctx, openai.Request{Prompt: "the cat", MaxTokens: 200, Temperature: 1, TopP: 1, Seed: seed}, func(t openai.Token) error {
			d.token(t)
			if tick != nil {
				select {
				case <-tick:
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		})
		if err != nil && ctx.Err() == nil {
			d.mu.Lock()
			d.err = err
			d.mu.Unlock()
			return
		}
	}
}

func (d *diary) token(t openai.Token) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all++
	if d.tokens == nil {
		d.tokens = make(map[string]*tokens)
	}
	with := make(map[string]bool, len(t.Attribution))
	for _, share := range t.Attribution {
		if share.Offer == "" {
			continue
		}
		with[share.Offer] = true
		w := d.tokens[share.Offer]
		if w == nil {
			w = &tokens{}
			d.tokens[share.Offer] = w
		}
		w.count++
		w.last = now
		if w.ended {
			w.back++
		}
	}
	for offer, w := range d.tokens {
		w.ended = w.ended || !with[offer]
	}
}

// of returns what the node wrote with an expert.
func (d *diary) of(offer cid.Cid) tokens {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.tokens[offer.String()]; w != nil {
		return *w
	}
	return tokens{}
}

// came returns when a notice came by gossip, zero if it did not.
func (d *diary) came(notice cid.Cid) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.heard[notice.String()]
}

// swapped returns when the first new mixture since a moment was in place.
func (d *diary) swapped(since time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, at := range d.swaps {
		if at.After(since) {
			return at
		}
	}
	return time.Time{}
}

// Enabled implements [slog.Handler].
func (d *diary) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements [slog.Handler].
func (d *diary) WithAttrs([]slog.Attr) slog.Handler { return d }

// WithGroup implements [slog.Handler].
func (d *diary) WithGroup(string) slog.Handler { return d }

// Handle implements [slog.Handler].
func (d *diary) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "mixture":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.swaps = append(d.swaps, r.Time)
	case "gossip taken in":
		var id string
		var came time.Time
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "notice":
				id = fmt.Sprint(a.Value.Any())
			case "came":
				came = a.Value.Time()
			}
			return true
		})
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.heard == nil {
			d.heard = make(map[string]time.Time)
		}
		if d.heard[id].IsZero() {
			d.heard[id] = came
		}
	default:
		if r.Level >= slog.LevelError {
			fmt.Fprintln(os.Stderr, "trials: a node:", r.Message)
		}
	}
	return nil
}
