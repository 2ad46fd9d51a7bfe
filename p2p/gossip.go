package p2p

import (
	"context"
	"fmt"
	"time"

	"chorus/ledger/notice"

	"golang.org/x/time/rate"
)

// A Verdict is what to do with a message of gossip.
type Verdict int

// The verdicts.
const (
	Accept Verdict = iota // it is stored: pass it on
	Ignore                // it cannot be judged, or not now: pass nothing on
	Reject                // no honest node passes it on
)

// Publish stores a notice and spreads it to all nodes that are reachable now. Those who are not get it by
// synchronisation. Publishing what has spread already does nothing.
func (e *Engine) Publish(ctx context.Context, n *notice.Notice) error {
	err := e.belongs(n)
	if err == nil {
		err = e.notices.Check(n)
	}
	if err == nil {
		_, err = e.notices.Add(n)
	}
	if err == nil {
		err = e.network.Broadcast(ctx, n.Envelope)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", n.CID, err)
	}
	return nil
}

// Receive takes in a message of gossip that a node passes on, and decides what becomes of it. What it accepts is
// durable.
func (e *Engine) Receive(from notice.PublicKey, envelope []byte) Verdict {
	if !e.enter() {
		return Ignore
	}
	defer e.wg.Done()
	came := time.Now()
	_, node, ok := e.notices.Seat(from)
	if !ok || !node {
		return Reject
	}
	p := e.partner(from)
	if !p.conduct.mayGossip() {
		return Ignore
	}
	n, err := notice.Parse(envelope)
	if err == nil {
		err = e.belongs(n)
	}
	if err != nil {
		e.log.Warn("gossip rejected", "from", e.nameOf(from), "error", err)
		p.conduct.judge(err)
		return Reject
	}
	if !e.mayHear(n) {
		return Ignore
	}
	if err := e.notices.Check(n); err != nil {
		// Whoever passes it on may know of a charter or a delegation that this node lacks.
		e.log.Debug("gossip not taken in", "from", e.nameOf(from), "error", err)
		if p.conduct.mayAsk() {
			e.Meet(from)
		}
		return Ignore
	}
	if _, err := e.notices.Add(n); err != nil {
		e.log.Error("notice not stored", "notice", n.CID, "error", err)
		return Ignore
	}
	e.log.Debug("gossip taken in", "notice", n.CID, "came", came)
	return Accept
}

// What one key's notices may take of everybody's gossip. An honest one has a few a day; synchronisation brings what
// is over.
const (
	hearRate  = 1 // notices a second
	hearBurst = 256
)

// mayHear reports whether a notice is within what its key may say by gossip.
func (e *Engine) mayHear(n *notice.Notice) bool {
	h := n.Header()
	if h == nil {
		return true // the stewards' signatures bound charters
	}
	if _, _, ok := e.notices.Seat(h.Key); !ok {
		return true // Check decides, and nothing is kept of a stranger's key
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	limit := e.heard[h.Key]
	if limit == nil {
		limit = rate.NewLimiter(hearRate, hearBurst)
		e.heard[h.Key] = limit
	}
	return limit.Allow()
}

// belongs refuses what is not of this consortium. A courier that does not know yet which one it is takes all, for its Notices to judge.
func (e *Engine) belongs(n *notice.Notice) error {
	if h := n.Header(); h != nil && e.charter.Defined() && !h.Charter.Equals(e.charter) {
		return fmt.Errorf("%w: a notice for the charter %s", ErrMalformed, h.Charter)
	}
	return nil
}
