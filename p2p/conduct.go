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
	shunFor       = 5 * time.Minute
)

// conduct is how another side behaves: what it may still ask for, and whether this side speaks with it at all.
type conduct struct {
	converse, serve, gossip, ask, tell, strikes *rate.Limiter

	until *atomic.Int64 // nanoseconds since 1970 until which it is shunned
}

func newConduct() conduct {
	return conduct{
		converse: rate.NewLimiter(rate.Every(converseEvery), converseBurst),
		serve:    rate.NewLimiter(serveRate, serveBurst),
		gossip:   rate.NewLimiter(gossipRate, gossipBurst),
		ask:      rate.NewLimiter(rate.Every(askEvery), 1),
		tell:     rate.NewLimiter(rate.Every(tellEvery), tellBurst),
		strikes:  rate.NewLimiter(rate.Every(strikeEvery), strikeBurst),
		until:    new(atomic.Int64),
	}
}

func (c conduct) shunned() bool { return time.Now().UnixNano() < c.until.Load() }

// mayConverse reports whether the other side may begin a conversation now.
func (c conduct) mayConverse() bool { return !c.shunned() && c.converse.Allow() }

// mayGossip reports whether a message that the other side passes on is looked into.
func (c conduct) mayGossip() bool { return !c.shunned() && c.gossip.Allow() }

// mayAsk reports whether this side may begin a conversation out of turn.
func (c conduct) mayAsk() bool { return !c.shunned() && c.ask.Allow() }

// mayTell reports whether the other side may send addresses now.
func (c conduct) mayTell() bool { return !c.shunned() && c.tell.Allow() }

// mayTake returns when the other side may take so many bytes of pages.
func (c conduct) mayTake(ctx context.Context, bytes int) error { return c.serve.WaitN(ctx, bytes) }

// judge counts an error of a conversation against the other side if no honest node gives cause for it. Whoever does
// so again and again is not spoken with for a while.
func (c conduct) judge(err error) {
	for _, foul := range []error{ErrMalformed, ErrTooLarge, notice.ErrMalformed, notice.ErrSignature, notice.ErrTooLarge} {
		if errors.Is(err, foul) {
			if !c.strikes.Allow() {
				c.until.Store(time.Now().Add(shunFor).UnixNano())
			}
			return
		}
	}
}
