package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"

	"golang.org/x/sync/errgroup"
)

const (
	maxServing  = 2       // conversations that one other side has begun and that are under way
	maxAnnounce = 32      // notices of one page that are gossiped on
	pageWants   = 1 << 14 // entries of a want
)

// Why a conversation that broke no rule was not enough. Another one, later, may be.
var (
	errBusy     = errors.New("another member is sending the same")
	errNotTaken = errors.New("the other side could not take everything in")
	errRefused  = errors.New("the other side has notices that may not be taken in here, or not yet")
)

// A conversation is one side of an exchange: it takes what it lacks and answers what it is asked.
type conversation struct {
	e *Engine
	p *partner
	s Stream

	their   inventory
	writing chan struct{} // of size 1: full while a frame is written
	asked   atomic.Bool   // a want of this side is not answered yet
	pages   chan []byte   // of size 1: the answer
	wants   chan want     // of size 1: what the other side asks; closed when it asks no more

	moved   atomic.Bool // something went one way or the other
	busy    bool        // something was left to another conversation; the taking half's
	fresh   int         // notices of the last stage that were taken in; the taking half's
	refused int         // pages of the last stage of which something was refused; the taking half's
	taken   bool        // the other side said done; the reading half's
}

// converse holds one conversation, on either side, ends the stream, and reports whether anything moved. Without an
// error, what this side had is durable on the other one, and the other way round.
func (e *Engine) converse(ctx context.Context, s Stream, p *partner) (moved bool, err error) {
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	defer context.AfterFunc(e.ctx, func() { s.Reset() })()
	c := &conversation{
		e: e, p: p, s: s,
		writing: make(chan struct{}, 1), pages: make(chan []byte, 1), wants: make(chan want, 1),
	}
	if err = c.hold(ctx); err != nil {
		s.Reset()
		p.conduct.judge(err)
		return c.moved.Load(), err
	}
	switch {
	case c.busy:
		return true, errBusy
	case c.refused > 0:
		return true, errRefused // of which one may be a revocation, so this is no reconciliation
	}
	e.synced(p)
	if !c.taken {
		return true, errNotTaken
	}
	return c.moved.Load(), nil
}

func (c *conversation) hold(ctx context.Context) error {
	mine, began := c.e.stock(), time.Now()
	open := opening{began, mine.sum}
	if err := c.send(frameOpen, open.encode()); err != nil {
		return err
	}
	_, body, err := c.receive(frameOpen)
	if err != nil {
		return err
	}
	their, err := decodeOpening(body)
	if err != nil {
		return err
	}
	now := time.Now()
	c.e.compareClocks(c.p, their.time.Sub(began.Add(now.Sub(began)/2)))
	if their.digest == open.digest {
		c.taken = true
		c.end()
		return nil
	}

	g, ctx := errgroup.WithContext(ctx)
	half := func(f func() error) {
		g.Go(func() error {
			err := f()
			if err != nil {
				c.s.Reset() // which ends the other halves
			}
			return err
		})
	}
	known, given := make(chan struct{}), make(chan struct{})
	half(func() error { return c.read(ctx, known) })
	half(func() error {
		defer close(given)
		for {
			select {
			case w, ok := <-c.wants:
				if !ok {
					return nil
				}
				if err := c.answer(ctx, w); err != nil {
					return err
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	half(func() error {
		if err := c.send(frameHave, mine.encode()); err != nil {
			return err
		}
		select {
		case <-known:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := c.take(ctx); err != nil {
			return err
		}
		end := byte(frameDone)
		if c.busy || c.refused > 0 {
			end = frameLater
		}
		if err := c.send(end, nil); err != nil {
			return err
		}
		select {
		case <-given:
			c.end()
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return g.Wait()
}

// end says that this side writes no more. Over QUIC that fails where the other side, which has all that it is to have, left first.
func (c *conversation) end() { c.s.CloseWrite() }

func (c *conversation) send(kind byte, body []byte) error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	c.s.SetWriteDeadline(time.Now().Add(frameTimeout))
	return writeFrame(c.s, kind, body)
}

// receive reads a frame of one of these kinds.
func (c *conversation) receive(kinds ...byte) (byte, []byte, error) {
	c.s.SetReadDeadline(time.Now().Add(frameTimeout))
	kind, body, err := readFrame(c.s)
	if err == nil && !slices.Contains(kinds, kind) {
		err = fmt.Errorf("%w: frame %q where %q belongs", ErrMalformed, kind, kinds)
	}
	return kind, body, err
}

// read hands frames to the halves that wait for them. It never waits for a half, or two sides could wait for each
// other: neither side sends a second want, or a page, without being due to.
func (c *conversation) read(ctx context.Context, known chan<- struct{}) error {
	_, body, err := c.receive(frameHave)
	if err != nil {
		return err
	}
	if c.their, err = decodeInventory(body); err != nil {
		return err
	}
	close(known)
	asking := true
	for {
		kind, body, err := c.receive(frameWant, framePage, frameDone, frameLater)
		switch {
		case err == io.EOF && !asking:
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		case kind == framePage:
			if !c.asked.CompareAndSwap(true, false) {
				return fmt.Errorf("%w: a page that was not asked for", ErrMalformed)
			}
			c.pages <- body
		case !asking:
			return fmt.Errorf("%w: frame %q after the end", ErrMalformed, kind)
		case kind == frameWant:
			w, err := decodeWant(body)
			if err != nil {
				return err
			}
			select {
			case c.wants <- w:
			default:
				return fmt.Errorf("%w: a want before the answer to the last one", ErrMalformed)
			}
		default:
			asking, c.taken = false, kind == frameDone
			close(c.wants)
		}
	}
}

// answer sends the first page of what the other side asks for.
func (c *conversation) answer(ctx context.Context, w want) error {
	p, err := c.fill(w)
	if err != nil {
		return err
	}
	if err := c.p.conduct.mayTake(ctx, len(p.body)); err != nil {
		return err
	}
	if len(p.body) > 1 {
		c.moved.Store(true)
	}
	return c.send(framePage, p.body)
}

func (c *conversation) fill(w want) (*page, error) {
	p := newPage()
	if len(w.loose) > 0 {
		held := make(map[looseID]*notice.Notice)
		for id, n := range loose(c.e.notices) {
			held[id] = n
		}
		for _, id := range w.loose {
			n := held[id]
			if n == nil {
				continue
			}
			if len(p.body) > pageSize {
				return p, nil
			}
			p.add(n.Envelope)
		}
	}
	for _, f := range w.feeds {
		room := pageSize - len(p.body)
		if room <= 0 {
			return p, nil
		}
		envelopes, _, err := c.e.notices.Envelopes(f.key, f.seq, room)
		if err != nil {
			return nil, err
		}
		for _, e := range envelopes {
			if len(p.body)+4+len(e) > maxPage {
				break // of a fork with so many branches, some prove it
			}
			p.add(e)
		}
		if len(p.body) >= pageSize {
			return p, nil
		}
	}
	p.finish()
	return p, nil
}

// compareClocks notes how far another node's clock is ahead.
func (e *Engine) compareClocks(p *partner, offset time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p.offset = offset
}

// synced notes that this side has all that the other one said it had: nothing was refused, or left to another
// conversation.
func (e *Engine) synced(p *partner) {
	e.mu.Lock()
	p.synced = time.Now()
	e.mu.Unlock()
	e.once.Do(func() { close(e.reconciled) })
}
