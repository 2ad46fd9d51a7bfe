package p2p

import (
	"math/rand/v2"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
)

// keep holds the connection to a member, dialling it whenever it is gone, and tells it of addresses: at once after
// connecting, and then of what is new, ever less often.
func (h *Host) keep(m *member) {
	told := make(map[notice.PublicKey]string)
	pace := pace{backoff: minBackoff}
	pause, silent := minBackoff, time.Time{} // silent: nothing is told until then
	timer, due := time.NewTimer(0), time.Now()
	defer timer.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-m.left:
			return
		case <-m.wake:
		case <-timer.C:
		}
		if m.lost.Swap(false) {
			clear(told)
			pause, silent = minBackoff, time.Time{}
			pace.lost(time.Now())
		}
		connected := h.host.Network().Connectedness(m.id) == network.Connected
		if again := m.revived.Swap(nil); again != nil && !connected {
			pace.revive(time.Now(), earlier(*again, due))
		}
		if wait := time.Until(pace.until); wait > 0 && !connected {
			timer.Reset(wait)
			continue
		}
		wait := keepEvery - rand.N(keepEvery/4)
		var err error
		if !connected {
			pace.dialled = time.Now()
			err = h.dial(m)
			m.unreached.Store(err != nil)
		}
		m.dialled.Store(true)
		if err == nil && h.host.Network().Connectedness(m.id) == network.Connected {
			if until := time.Until(silent); until > 0 {
				wait = until - rand.N(until/4+1)
			} else if err = h.tell(m, told); err == nil {
				silent, pause = time.Now().Add(pause), min(2*pause, maxBackoff)
			}
		}
		if err != nil && h.ctx.Err() == nil {
			h.log.Debug("member not reached", "member", m.Name, "error", err)
			// Who lost many at once dials them at times that lie ever further apart, so that some dial is always soon.
			wait = pace.next()
			wait = wait/2 + rand.N(wait)
		}
		due = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

// A pace says how soon a member is dialled again.
type pace struct {
	backoff time.Duration
	dialled time.Time
	until   time.Time // no dial before
	hungUp  bool      // whether until is because the member ended a connection, which it does for a reason of its own
}

// settled is after how long a connection counts as one.
const settled = 10 * time.Second

// lost notes that a connection ended at a time. One that ended soon after the dial was refused, by a node that does not, or
// not yet, count this one among the members: dialling at once would go on for ever.
func (p *pace) lost(at time.Time) {
	if p.hungUp = at.Sub(p.dialled) < settled; p.hungUp {
		p.until = at.Add(p.next())
	} else {
		p.backoff = minBackoff
	}
}

// next returns how long to wait now; the time after that it is twice as long.
func (p *pace) next() time.Duration {
	wait := p.backoff
	p.backoff = min(2*p.backoff, maxBackoff)
	return wait
}

// revive has a member dialled at a time that could not be reached, but no sooner than one that fails for the first
// time is dialled again.
func (p *pace) revive(now, at time.Time) {
	if p.hungUp && now.Before(p.until) {
		return
	}
	p.backoff = minBackoff
	p.until = later(at, p.dialled.Add(minBackoff))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A network that comes back shows it by one member, or by an address of this machine. The others are dialled again then and
// not when their backoff ends: one after the other, in random order, so that the first connections are put to use before
// the last are made, and the two sides seldom dial each other at once. A member that comes and goes can make this host do so
// only so often, whatever it does; each time has at most seven dials before the backoff is as long again.
const (
	reviveEach  = 100 * time.Millisecond
	reviveRate  = 2 // members a second
	reviveBurst = 256
)

// revive has those members dialled again that could not be reached.
func (h *Host) revive() {
	again := time.Now()
	for _, m := range h.members.all() { // in random order
		if m.unreached.Load() {
			if !h.revivals.Allow() {
				return
			}
			m.unreached.Store(false) // until the next dial fails
			at := again.Add(rand.N(reviveEach))
			m.revived.Store(&at)
			m.signal()
			again = again.Add(reviveEach)
		}
	}
}

// reached notes that a member is connected: if it could not be dialled before, others may have become reachable too.
func (h *Host) reached(m *member) {
	h.engine.Meet(m.node)
	m.signal()
	if m.unreached.Swap(false) {
		h.revive()
	}
}

// followAddresses has members dialled again that could not be reached when this machine's addresses change.
func (h *Host) followAddresses(changes event.Subscription) {
	defer changes.Close()
	for {
		select {
		case <-h.ctx.Done():
			return
		case _, ok := <-changes.Out():
			if !ok {
				return
			}
			h.revive()
		}
	}
}
