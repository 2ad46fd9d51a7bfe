package p2p

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"

	"golang.org/x/time/rate"
)

// What one other node, or courier, may ask of this one. Honest ones stay far below: a pair that is up to date
// holds a conversation a minute, and a notice arrives from a few neighbours at once.
const (
	converseEvery = 2 * time.Second // conversations that the other side begins
	converseBurst = 20
	serveRate     = 4 << 20 // bytes of pages a second
	serveBurst    = 2 << 30 // everything of ten years, twice
	gossipRate    = 100     // messages a second that are looked into
	gossipBurst   = 4096
	askEvery      = 5 * time.Second // for what explains a message that cannot be judged
	tellEvery     = 2 * time.Second // addresses
	tellBurst     = 20
	strikeEvery   = time.Minute // what no honest node sends
	strikeBurst   = 3
	streamRate    = 4096 // streams a second, of which a blob takes one for each chunk
	streamBurst   = 16384
	vainEvery     = time.Second // all that is more than it may
	vainBurst     = 1024
	shunFor       = 5 * time.Minute
)

// conduct is how another side behaves: what it may still ask for, and whether this side speaks with it at all.
type conduct struct {
	converse, serve, gossip, ask, tell, streams, vain, strikes *rate.Limiter

	until *atomic.Int64 // nanoseconds since 1970 until which it is shunned
	part  func()        // is called when that begins
}

func newConduct(part func()) conduct {
	return conduct{
		converse: rate.NewLimiter(rate.Every(converseEvery), converseBurst),
		serve:    rate.NewLimiter(serveRate, serveBurst),
		gossip:   rate.NewLimiter(gossipRate, gossipBurst),
		ask:      rate.NewLimiter(rate.Every(askEvery), 1),
		tell:     rate.NewLimiter(rate.Every(tellEvery), tellBurst),
		streams:  rate.NewLimiter(streamRate, streamBurst),
		vain:     rate.NewLimiter(rate.Every(vainEvery), vainBurst),
		strikes:  rate.NewLimiter(rate.Every(strikeEvery), strikeBurst),
		until:    new(atomic.Int64),
		part:     part,
	}
}

func (c conduct) shunned() bool { return time.Now().UnixNano() < c.until.Load() }

// mayConverse reports whether the other side may begin a conversation now.
func (c conduct) mayConverse() bool { return c.may(c.converse) }

// mayGossip reports whether a message that the other side passes on is looked into.
func (c conduct) mayGossip() bool { return c.may(c.gossip) }

// mayTell reports whether the other side may send addresses now.
func (c conduct) mayTell() bool { return c.may(c.tell) }

// mayOpen reports whether the other side may open a stream now.
func (c conduct) mayOpen() bool { return c.may(c.streams) }

// may reports whether the other side may do something once more. Refusing costs little, and is not done for ever.
func (c conduct) may(limit *rate.Limiter) bool {
	switch {
	case c.shunned():
		return false
	case limit.Allow():
		return true
	case !c.vain.Allow():
		c.shun()
	}
	return false
}

// mayAsk reports whether this side may begin a conversation out of turn.
func (c conduct) mayAsk() bool { return !c.shunned() && c.ask.Allow() }

// mayTake returns when the other side may take so many bytes of pages.
func (c conduct) mayTake(ctx context.Context, bytes int) error { return c.serve.WaitN(ctx, bytes) }

// judge counts an error of a conversation against the other side if no honest node gives cause for it. Whoever does
// so again and again is not spoken with for a while.
func (c conduct) judge(err error) {
	for _, foul := range []error{ErrMalformed, ErrTooLarge, notice.ErrMalformed, notice.ErrSignature, notice.ErrTooLarge} {
		if errors.Is(err, foul) {
			if !c.strikes.Allow() {
				c.shun()
			}
			return
		}
	}
}

func (c conduct) shun() {
	c.until.Store(time.Now().Add(shunFor).UnixNano())
	c.part()
}
