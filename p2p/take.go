package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"chorus/ledger/notice"

	"golang.org/x/sync/errgroup"
)

// take fetches what the other side has and this one lacks. Charters come first, since they say whose feeds count;
// then the feeds of keys that are known; then those that these name, and what was refused before that, again as long as
// that brings anything new: a key may have been named by one that was itself unknown.
func (c *conversation) take(ctx context.Context) error {
	defer c.e.release(c)
	for stage := range maxStages {
		w, err := c.lacks(stage)
		if err != nil {
			return err
		}
		c.fresh, c.refused = 0, 0
		if err := c.fetch(ctx, w); err != nil {
			return err
		}
		if stage >= 2 && (c.refused == 0 || c.fresh == 0) {
			return nil
		}
	}
	return nil
}

// maxStages bounds how long a chain of keys that name each other one conversation follows.
const maxStages = 8

// lacks returns what to ask for at a stage.
func (c *conversation) lacks(stage int) (w want, err error) {
	mine := c.e.stock()
	if stage != 1 {
		held := make(map[looseID]bool, len(mine.loose))
		for _, id := range mine.loose {
			held[id] = true
		}
		for _, id := range c.their.loose {
			if !held[id] {
				w.loose = append(w.loose, id)
			}
		}
	}
	if stage == 0 {
		return w, nil
	}
	c.busy = false
	for _, their := range c.their.feeds {
		if _, _, known := c.e.notices.Seat(their.Key); stage == 1 && !known {
			continue
		}
		own := mine.of(their.Key)
		after, ok, err := c.lacksAfter(own, their)
		if err != nil {
			return want{}, err
		}
		switch {
		case !ok:
		case their.Seq > own.Seq+claimed && !c.e.claim(their.Key, c):
			c.busy = true
		default:
			w.feeds = append(w.feeds, feedAfter{their.Key, after})
		}
	}
	return w, nil
}

// lacksAfter returns the number after which to ask for a feed, if there is anything to ask for. When the two sides
// have different notices of one number, each asks for the whole feed of the other: it is the proof of the fork.
func (c *conversation) lacksAfter(own, their notice.Frontier) (seq uint64, ok bool, err error) {
	switch {
	case their.Seq > own.Seq:
		return own.Seq, true, nil
	case their.Seq == own.Seq && their.CID != own.CID:
		return 0, true, nil
	case their.Seq < own.Seq && their.Seq > 0:
		at, _, err := c.e.notices.Envelopes(their.Key, their.Seq-1, 1)
		if err != nil {
			return 0, false, err
		}
		if len(at) == 0 {
			return 0, false, fmt.Errorf("the feed of %s is said to be here up to %d, and %d is not", their.Key, own.Seq, their.Seq)
		}
		n, err := notice.Parse(at[0])
		if err != nil {
			return 0, false, err
		}
		if n.CID != their.CID {
			return 0, true, nil
		}
	}
	return their.Seq, their.Rest != own.Rest && their.Rest != [32]byte{}, nil
}

// fetch asks for everything in w, page by page. While a page is stored the next is on its way, and no more than
// that one: what is durable is never asked for again.
func (c *conversation) fetch(ctx context.Context, w want) (err error) {
	stored := make(chan error, 1)
	stored <- nil
	defer func() { err = cmp.Or(err, <-stored) }()
	for !w.empty() {
		now := want{w.feeds[:min(len(w.feeds), pageWants)], w.loose[:min(len(w.loose), pageWants)]}
		if len(now.loose) < len(w.loose) {
			now.feeds = nil
		}
		notices, whole, err := c.ask(ctx, now)
		if err != nil {
			return err
		}
		if err := now.advance(notices, whole); err != nil {
			return err
		}
		w = want{append(now.feeds, w.feeds[min(len(w.feeds), pageWants):]...), append(now.loose, w.loose[min(len(w.loose), pageWants):]...)}
		if err := <-stored; err != nil {
			stored <- nil
			return err
		}
		go func() { stored <- c.store(ctx, notices) }()
	}
	return nil
}

// ask asks for a page and returns its notices, all of which are among those asked for.
func (c *conversation) ask(ctx context.Context, w want) (notices []*notice.Notice, whole bool, err error) {
	c.asked.Store(true)
	if err := c.send(frameWant, w.encode()); err != nil {
		return nil, false, err
	}
	var body []byte
	select {
	case body = <-c.pages:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	c.e.extend(c, len(body))
	envelopes, whole, err := decodePage(body)
	if err != nil {
		return nil, false, err
	}
	notices, err = parseAll(envelopes)
	return notices, whole, err
}

// parseAll reads and verifies envelopes, on all processors.
func parseAll(envelopes [][]byte) ([]*notice.Notice, error) {
	shares := slices.Collect(slices.Chunk(envelopes, max(64, len(envelopes)/(4*runtime.GOMAXPROCS(0)))))
	parts := make([][]*notice.Notice, len(shares))
	var g errgroup.Group
	for i, share := range shares {
		g.Go(func() (err error) {
			parts[i], err = notice.ParseAll(share)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(parts...), nil
}

// advance takes away what a page has brought, and checks that it was asked for, in that order.
func (w *want) advance(notices []*notice.Notice, whole bool) error {
	wrong := func(n *notice.Notice) error {
		return fmt.Errorf("%w: %s %s was not asked for", ErrMalformed, n.Kind, n.CID)
	}
	for _, n := range notices {
		if h := n.Header(); h != nil && h.Seq > 0 {
			w.loose = nil
			for len(w.feeds) > 0 && w.feeds[0].key != h.Key {
				w.feeds = w.feeds[1:]
			}
			if len(w.feeds) == 0 || h.Seq <= w.feeds[0].seq {
				return wrong(n)
			}
			continue
		}
		i := slices.IndexFunc(w.loose, func(id looseID) bool { return id == looseIDOf(n) || id == proposalID(n) })
		if i < 0 {
			return wrong(n)
		}
		w.loose = w.loose[i+1:]
	}
	if whole {
		*w = want{}
		return nil
	}
	if len(notices) == 0 {
		return fmt.Errorf("%w: a page of nothing with more to come", ErrMalformed)
	}
	if h := notices[len(notices)-1].Header(); h != nil && h.Seq > 0 {
		w.feeds = slices.Clone(w.feeds)
		w.feeds[0].seq = h.Seq
	}
	return nil
}

// store takes in the notices of a page, all at once, and gossips those that should not wait a minute at every node
// on their way, since nobody may have gossiped them.
func (c *conversation) store(ctx context.Context, notices []*notice.Notice) error {
	for _, n := range notices {
		if err := c.e.belongs(n); err != nil {
			return err
		}
	}
	fresh, err := c.e.notices.Add(notices...)
	if errors.Is(err, notice.ErrRefused) {
		c.refused++
		c.e.log.Debug("notices refused", "from", c.e.nameOf(c.p.key), "error", err)
	} else if err != nil {
		return err
	}
	if c.fresh += len(fresh); len(fresh) > 0 {
		c.moved.Store(true)
	}
	announced := 0
	for _, n := range fresh {
		if n.Withdraws() && announced < maxAnnounce {
			announced++
			if err := c.e.network.Broadcast(ctx, n.Envelope); err != nil {
				c.e.log.Debug("not passed on at once", "notice", n.CID, "error", err)
			}
		}
	}
	return nil
}

// A claim says which conversation fetches much of a feed, so that it is fetched once when many members have it.
type claim struct {
	by    *conversation
	until time.Time
}

const (
	claimed    = 512              // missing notices from which on a feed is fetched from one member at a time
	claimTime  = 30 * time.Second // for which a claim holds without anything arriving
	claimSpeed = 64 << 10         // bytes a second that keep it
)

// claim reports whether a conversation may fetch much of a feed.
func (e *Engine) claim(key notice.PublicKey, c *conversation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.claims[key]
	if held != nil && held.by != c && time.Now().Before(held.until) {
		return false
	}
	e.claims[key] = &claim{c, time.Now().Add(claimTime)}
	return true
}

// extend lets the claims of a conversation last for as long as size bytes are worth.
func (e *Engine) extend(c *conversation, size int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, held := range e.claims {
		if held.by == c {
			held.until = held.until.Add(time.Duration(size) * time.Second / claimSpeed)
		}
	}
}

func (e *Engine) release(c *conversation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, held := range e.claims {
		if held.by == c {
			delete(e.claims, key)
		}
	}
}
