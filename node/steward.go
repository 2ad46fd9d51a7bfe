package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"chorus/ledger"

	"github.com/ipfs/go-cid"
)

const (
	// checkEvery bounds how long the node goes without looking at its clock.
	checkEvery = time.Minute
	// retryFirst is how long to wait before fetching an expert again that no member could serve; the
	// wait doubles up to checkEvery until an admission is decided.
	retryFirst = 250 * time.Millisecond
)

// Why a node serves the anchor alone, besides a clock that cannot be trusted.
const (
	notReconciled = "no other member could be reached since the start, so a revocation may have been missed"
	noneStands    = "no expert stands under a valid lease"
)

// An admission is the outcome of one attempt to admit an expert.
type admission struct {
	offer    cid.Cid
	admitted Admitted
	err      error
}

// steward keeps the mixture to what the ledger says is consented to. It is one goroutine, the only
// one that changes the mixture; admissions, which are slow, run beside it, so that a revocation
// never waits for a download.
func (n *Node) steward(ctx context.Context) {
	defer close(n.stopped)
	s := &stewardship{
		node:     n,
		admitted: make(map[cid.Cid]Admitted),
		refused:  make(map[cid.Cid]bool),
		pending:  make(map[cid.Cid]context.CancelFunc),
		results:  make(chan admission),

		retryWait: retryFirst,
	}
	reconciled := n.host.Reconciled()
	if n.single() {
		s.reconciled, reconciled = true, nil
	}
	for {
		changed := n.ledger.Changed()
		timer := time.NewTimer(time.Until(s.round(ctx)))
		n.announce()
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		case <-reconciled:
			s.reconciled, reconciled = true, nil
		case a := <-s.results:
			s.settle(a)
		}
		timer.Stop()
		if ctx.Err() != nil {
			for len(s.pending) > 0 {
				a := <-s.results
				delete(s.pending, a.offer)
			}
			return
		}
	}
}

// stewardship is the state of the steward loop.
type stewardship struct {
	node       *Node
	reconciled bool
	observed   time.Time // when the clock was last held against the highest time on record
	clock      error     // what came of it
	admitted   map[cid.Cid]Admitted
	refused    map[cid.Cid]bool
	pending    map[cid.Cid]context.CancelFunc // admissions under way
	retryWait  time.Duration                  // what to wait after the next that cannot be fetched
	retryAt    time.Time                      // when to try again what could not be fetched
	results    chan admission
}

// round brings the mixture, the blobs and the node's own lease up to date, in the order of what
// is urgent, and returns when to look again at the latest.
func (s *stewardship) round(ctx context.Context) time.Time {
	n, at := s.node, now()
	again := at.Add(checkEvery)
	if at.Sub(s.observed).Abs() >= checkEvery {
		s.observed, s.clock = at, n.ledger.Observe(at)
	}
	why := ""
	switch {
	case s.clock != nil:
		why = fmt.Sprintf("the clock cannot be trusted: %v", s.clock)
	case !s.reconciled:
		why = notReconciled
	}
	standings := n.ledger.Standings(at)
	active := make(map[cid.Cid]ledger.Standing)
	for _, st := range standings {
		if st.State == ledger.Active && why == "" {
			active[st.Notice] = st
			again = earlier(again, st.Until)
		}
	}

	for offer := range s.admitted {
		if _, ok := active[offer]; !ok {
			delete(s.admitted, offer)
		}
	}
	for offer, cancel := range s.pending {
		if _, ok := active[offer]; !ok {
			cancel()
		}
	}
	s.swap(standings, why)
	again = earlier(again, s.tidy(at, why == ""))
	if at.Before(s.retryAt) {
		return earlier(again, s.retryAt)
	}
	for offer, st := range active {
		if _, done := s.admitted[offer]; done || s.refused[offer] || s.pending[offer] != nil {
			continue
		}
		admitting, cancel := context.WithCancel(ctx)
		s.pending[offer] = cancel
		go func() {
			a, err := n.admit(admitting, st)
			s.results <- admission{offer, a, err}
		}()
	}
	return again
}

// settle takes in the outcome of an admission. The next round decides whether it may still be used.
func (s *stewardship) settle(a admission) {
	s.pending[a.offer]()
	delete(s.pending, a.offer)
	var refusal *Refusal
	switch {
	case a.err == nil:
		s.admitted[a.offer] = a.admitted
		s.retryWait = retryFirst
	case errors.As(a.err, &refusal):
		s.refused[a.offer] = true
		s.node.log.Warn("expert refused", slog.String("offer", a.offer.String()), slog.Any("error", a.err))
	case !errors.Is(a.err, context.Canceled):
		s.retryAt = now().Add(s.retryWait)
		s.retryWait = min(2*s.retryWait, checkEvery)
		s.node.log.Info("expert not admitted yet", slog.String("offer", a.offer.String()), slog.Any("error", a.err))
	}
}

// swap makes the mixture that the admitted experts give, if it is not the one that runs.
func (s *stewardship) swap(standings []ledger.Standing, why string) {
	n, old := s.node, s.node.mixture.Load()
	experts := make([]Admitted, 0, len(s.admitted))
	for _, a := range s.admitted {
		experts = append(experts, a)
	}
	slices.SortFunc(experts, func(a, b Admitted) int {
		return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Offer.KeyString(), b.Offer.KeyString()))
	})
	if why == "" && len(experts) == 0 {
		why = noneStands
	}
	if slices.EqualFunc(old.Experts, experts, func(a, b Admitted) bool { return a.Offer == b.Offer }) && (len(experts) > 0 || old.Why == why) {
		return
	}
	m := n.alone(why)
	if len(experts) > 0 {
		m = n.assemble(experts)
	}
	n.mixture.Store(m)
	n.log.Info("mixture", slog.Int("experts", len(experts)), slog.String("why", m.Why))
	for _, a := range old.Experts {
		if _, still := s.admitted[a.Offer]; !still {
			n.record(ledger.Event{Time: now(), Kind: ledger.EventDropped, Expert: a.Blob, Offer: a.Offer, Detail: stateOf(standings, a.Offer, why)})
		}
	}
}

// tidy does what can wait for a moment: it deletes blobs and, if leases can be judged, renews the
// member's own. It gives way to a publication under way, which is about to name a blob. It returns
// when to look again.
func (s *stewardship) tidy(at time.Time, leasesCount bool) time.Time {
	n := s.node
	if !n.signing.TryLock() {
		return at.Add(retryFirst)
	}
	defer n.signing.Unlock()
	standings := n.ledger.Standings(at)
	s.sweep(standings, leasesCount)
	if !leasesCount {
		return at.Add(checkEvery)
	}
	return n.renewLease(at)
}

// sweep deletes every blob of an expert that is revoked and, if leases can be judged, that no active
// offer names. This member's own stay until it revokes them: between an offer and its first lease
// they are not active yet.
func (s *stewardship) sweep(standings []ledger.Standing, leasesCount bool) {
	gone := func(st ledger.Standing) bool {
		return st.State == ledger.Revoked || leasesCount && st.State != ledger.Active && st.Member != s.node.Member()
	}
	keep := make(map[cid.Cid]bool)
	for _, st := range standings {
		if !gone(st) {
			keep[st.Offer.Blob] = true
		}
	}
	for _, st := range standings {
		blob := st.Offer.Blob
		if keep[blob] || !s.node.blobs.Has(blob) {
			continue
		}
		if err := s.node.blobs.Delete(blob); err != nil {
			s.node.log.Error("deleting a blob", slog.String("blob", blob.String()), slog.Any("error", err))
			continue
		}
		s.node.record(ledger.Event{Time: now(), Kind: ledger.EventDeleted, Expert: blob, Offer: st.Notice, Detail: string(st.State)})
	}
}

// record writes an event. A failing disk must not keep an expert in use, so it is only logged.
func (n *Node) record(e ledger.Event) {
	if err := n.ledger.Record(e); err != nil {
		n.log.Error("recording an event", slog.String("kind", string(e.Kind)), slog.Any("error", err))
	}
}

func stateOf(standings []ledger.Standing, offer cid.Cid, otherwise string) string {
	for _, st := range standings {
		if st.Notice == offer && st.State != ledger.Active {
			return string(st.State)
		}
	}
	return otherwise
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
