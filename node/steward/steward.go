// Package steward keeps what a node uses to what the ledger says is consented to.
//
// [Decide] is the decision, a pure function. A [Steward] is the loop around it: it looks at the ledger and the clock,
// decides, and has the node's [Hands] do what follows. It has no state outside itself, does no input or output of its
// own and takes the time from package time, so that a simulation runs the very loop that a node does.
package steward

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// retryFirst is how long to wait before fetching an expert again that no member could serve; the wait doubles up
// to lookEvery until an admission is decided.
const retryFirst = 250 * time.Millisecond

// A node says what it has dropped stateAfter later, when the revocation has probably reached everybody: until then, the word of
// each node to all others would be in its way. After that the nodes of members take turns, in the order of the charter.
const (
	stateAfter = 250 * time.Millisecond
	turnEvery  = 10 * time.Millisecond
)

// A Ledger is what a steward reads and where it keeps account. A *ledger.Ledger is one.
type Ledger interface {
	Charter() *notice.Charter
	// Changed returns a channel that is closed when the standings may have changed.
	Changed() <-chan struct{}
	// Observe keeps the highest time, and returns an error if at is before it by more than the tolerance.
	Observe(at time.Time) error
	Standings(at time.Time) []ledger.Standing
	Verdicts() ([]ledger.Verdict, error)
	SetVerdict(ledger.Verdict) error
	Record(...ledger.Event) error
}

// An Expert is what a node has made of a blob. Only the node knows what that is.
type Expert any

// Hands do what a steward decides. They are called from one goroutine, Fetch and Load apart.
type Hands interface {
	// Held reports whether a blob is on the disk.
	Held(blob cid.Cid) bool
	// Fetch brings a blob of size bytes to the disk, from whoever serves it.
	Fetch(ctx context.Context, blob cid.Cid, size int64) error
	// Load makes an expert of a blob that is on the disk, and tries it. An error that is no [*Refusal] says
	// that it could not be decided.
	Load(ctx context.Context, st ledger.Standing) (Expert, error)

	// Use says which experts may be used from now on, until a time that is zero if there are none, and then why.
	// It is called at every look. On return nothing new begins with any other.
	Use(set []Admitted, why string, until time.Time)
	// Drop ends an expert that is not in use any more: on return nothing holds anything of it, but for what the step of a
	// computation that is under way needs until its end.
	Drop(Admitted)
	// Delete removes a blob from the disk, and ends whatever fetches or serves it. It reports whether it did: not if
	// an offer in force names the blob meanwhile.
	Delete(blob cid.Cid) (bool, error)
	// Renew signs and sends the member's lease on offers.
	Renew(ctx context.Context, offers []cid.Cid) error
	// State signs and sends the node's word that it does not use these revoked experts, which it has let go of, unless it
	// has given it before.
	State(ctx context.Context, revoked []ledger.Standing) error
	// Looked is called at the end of each look.
	Looked()
}

// An Admitted expert is one that admission took in.
type Admitted struct {
	ledger.Standing // when it was admitted
	Expert          Expert
}

// A Steward is the loop of one node.
type Steward struct {
	Member string // whose node it is
	Ledger Ledger
	Hands  Hands
	Log    *slog.Logger

	// Reconciled is closed once the node has heard from another member since its start; nil if there is no other.
	Reconciled <-chan struct{}
	// CaughtUp is closed once it has heard from every other that it can reach, so that it may sign; nil if it may at once.
	CaughtUp <-chan struct{}
	// Unheard reports whether a member is connected that the node has not heard since its start; nil if there is no other.
	Unheard func() bool
}

// An admission is the outcome of one attempt to admit an expert.
type admission struct {
	offer    cid.Cid
	admitted Admitted
	err      error
}

// look is the state of a steward between two looks.
type look struct {
	*Steward
	reconciled bool
	caughtUp   bool
	observed   time.Time // when the clock was last held against the highest time on record
	clock      error     // what came of it
	admitted   map[cid.Cid]Admitted
	used       map[cid.Cid]bool      // of admitted
	ends       map[cid.Cid]time.Time // of the leases under which experts are in use, by offer
	refused    map[cid.Cid]bool
	pending    map[cid.Cid]context.CancelFunc // admissions under way
	retryWait  time.Duration                  // what to wait after the next that cannot be fetched
	retryAt    time.Time                      // when to try again what could not be fetched
	renewAt    time.Time                      // when to try again a renewal that failed
	stated     map[cid.Cid]bool               // revoked offers of which the node has given its word
	stateAt    time.Time                      // when to give it of the others; zero if there are none
	results    chan admission
}

// Run keeps to the ledger until ctx ends. It is the only one to change what is used; admissions, which are slow, run
// beside it, so that a revocation never waits for a download. When it returns, nothing is used and nothing runs.
func (s *Steward) Run(ctx context.Context) {
	l := &look{
		Steward:  s,
		admitted: make(map[cid.Cid]Admitted),
		used:     make(map[cid.Cid]bool),
		ends:     make(map[cid.Cid]time.Time),
		refused:  make(map[cid.Cid]bool),
		stated:   make(map[cid.Cid]bool),
		pending:  make(map[cid.Cid]context.CancelFunc),
		results:  make(chan admission),

		retryWait:  retryFirst,
		reconciled: s.Reconciled == nil,
		caughtUp:   s.CaughtUp == nil,
	}
	verdicts, err := s.Ledger.Verdicts()
	if err != nil {
		s.Log.Error("reading verdicts", slog.Any("error", err))
	}
	for _, v := range verdicts {
		if !v.Admitted {
			l.refused[v.Offer] = true
		}
	}
	reconciled, caughtUp := s.Reconciled, s.CaughtUp
	for {
		changed := s.Ledger.Changed()
		timer := time.NewTimer(time.Until(l.once(ctx)))
		s.Hands.Looked()
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		case <-reconciled:
			l.reconciled, reconciled = true, nil
		case <-caughtUp:
			l.caughtUp, caughtUp = true, nil
		case a := <-l.results:
			l.settle(a)
		}
		timer.Stop()
		if ctx.Err() != nil {
			l.end()
			return
		}
	}
}

// end waits for what is under way and lets go of everything.
func (l *look) end() {
	for len(l.pending) > 0 {
		l.settle(<-l.results)
	}
	l.Hands.Use(nil, "the node has ended", time.Time{})
	for _, a := range l.admitted {
		l.Hands.Drop(a)
	}
}

// once looks, decides and has it done, and returns when to look again at the latest.
func (l *look) once(ctx context.Context) time.Time {
	at := time.Now()
	passed, shown := at.Sub(l.observed), at.Round(0).Sub(l.observed.Round(0)) // the second also when the clock is set
	if max(passed, shown.Abs()) >= lookEvery {
		l.observe(at)
	}
	standings := l.Ledger.Standings(at.UTC())
	p := l.decide(at, standings)
	ends, longer, over := l.leases(p, standings)
	if longer { // the time is on disk before anything is used under a lease
		if l.observe(at); l.clock != nil {
			p = l.decide(at, standings)
			ends, _, over = l.leases(p, standings)
		}
	}
	set := make([]Admitted, len(p.Use))
	for i, offer := range p.Use {
		set[i] = l.admitted[offer]
	}
	l.Hands.Use(set, p.Why, p.Until)
	l.ends = ends
	events := l.drop(p)
	if over { // and once one has ended: but ending is first
		l.observe(at)
	}
	for _, offer := range p.Use {
		l.used[offer] = true
	}
	for _, offer := range p.Cancel {
		l.pending[offer]()
	}
	if events = append(events, l.delete(p)...); len(events) > 0 {
		// A failing disk must not keep an expert in use, so it is only logged.
		if err := l.Ledger.Record(events...); err != nil {
			l.Log.Error("recording events", slog.Int("events", len(events)), slog.Any("error", err))
		}
	}
	again := earlier(p.Again, l.state(ctx, at, p.Revoked))
	again = earlier(again, l.renew(ctx, at, p.Renew))
	for _, st := range p.Admit {
		admitting, cancel := context.WithCancel(ctx)
		l.pending[st.Notice] = cancel
		go func() {
			a, err := l.admit(admitting, st)
			l.results <- admission{st.Notice, a, err}
		}()
	}
	return again
}

// observe holds the clock against the highest time on record.
func (l *look) observe(at time.Time) { l.observed, l.clock = at, l.Ledger.Observe(at.UTC()) }

func (l *look) decide(at time.Time, standings []ledger.Standing) Plan {
	return Decide(View{
		At: at, Member: l.Member, Lease: time.Duration(l.Ledger.Charter().LeaseSeconds) * time.Second,
		Standings: standings, Clock: l.clock, Reconciled: l.reconciled, CaughtUp: l.caughtUp, Unheard: l.Unheard != nil && l.Unheard(),
		Admitted: keys(l.admitted), Refused: l.refused, Pending: keys(l.pending), RetryAt: l.retryAt,
	})
}

// leases returns the ends of the leases under which p uses experts. longer reports whether one is relied on for longer
// than any was so far, and over whether one that was relied on is not any more, unless a revocation says so for ever.
func (l *look) leases(p Plan, standings []ledger.Standing) (ends map[cid.Cid]time.Time, longer, over bool) {
	ends = make(map[cid.Cid]time.Time, len(p.Use))
	revoked := make(map[cid.Cid]bool)
	for _, st := range standings {
		revoked[st.Notice] = st.State == ledger.Revoked
		if slices.Contains(p.Use, st.Notice) {
			ends[st.Notice] = st.Until
			longer = longer || st.Until.After(l.ends[st.Notice])
		}
	}
	for offer := range l.ends {
		over = over || ends[offer].IsZero() && !revoked[offer]
	}
	return ends, longer, over
}

// drop lets go of what is not to be used any more, and returns what to record.
func (l *look) drop(p Plan) (events []ledger.Event) {
	for _, d := range p.Drop {
		a := l.admitted[d.Offer]
		l.Hands.Drop(a)
		if l.used[d.Offer] {
			events = append(events, ledger.Event{Time: time.Now().UTC(), Kind: ledger.EventDropped, Expert: a.Offer.Blob, Offer: d.Offer, Detail: d.Detail})
		}
		delete(l.admitted, d.Offer)
		delete(l.used, d.Offer)
	}
	return events
}

// delete removes blobs, and returns what to record.
func (l *look) delete(p Plan) (events []ledger.Event) {
	for _, d := range p.Delete {
		if !l.Hands.Held(d.Blob) {
			continue
		}
		if done, err := l.Hands.Delete(d.Blob); err != nil {
			l.Log.Error("deleting a blob", slog.String("blob", d.Blob.String()), slog.Any("error", err))
		} else if done {
			events = append(events, ledger.Event{Time: time.Now().UTC(), Kind: ledger.EventDeleted, Expert: d.Blob, Offer: d.Offer, Detail: d.Detail})
		}
	}
	return events
}

// state has the node give its word that it has let go of what is revoked, at its turn, and returns when to come back to it.
func (l *look) state(ctx context.Context, at time.Time, revoked []ledger.Standing) time.Time {
	var gone []ledger.Standing
	for _, st := range revoked {
		if !l.stated[st.Notice] {
			gone = append(gone, st)
		}
	}
	later := at.Add(lookEvery)
	if len(gone) == 0 {
		l.stateAt = time.Time{}
		return later
	}
	if l.stateAt.IsZero() {
		l.stateAt = at.Add(l.turn())
	}
	if at.Before(l.stateAt) {
		return l.stateAt
	}
	l.stateAt = later
	if err := l.Hands.State(ctx, gone); err != nil {
		l.Log.Error("stating what is not used any more", slog.Any("error", err))
		return later
	}
	l.stateAt = time.Time{}
	for _, st := range gone {
		l.stated[st.Notice] = true
	}
	return later
}

// turn is how long after a revocation this node gives its word.
func (l *look) turn() time.Duration {
	return stateAfter + turnEvery*time.Duration(slices.IndexFunc(l.Ledger.Charter().Members, func(m notice.Member) bool { return m.Name == l.Member })+1)
}

// renew has the member's own lease renewed, and returns when to try again if it cannot be.
func (l *look) renew(ctx context.Context, at time.Time, offers []cid.Cid) time.Time {
	if offers == nil {
		return at.Add(lookEvery)
	}
	if !at.Before(l.renewAt) {
		if err := l.Hands.Renew(ctx, offers); err != nil {
			l.renewAt = at.Add(lookEvery)
			l.Log.Error("renewing the lease", slog.Any("error", err))
		}
	}
	return at.Add(lookEvery)
}

// settle takes in the outcome of an admission. The next look decides whether it may still be used.
func (l *look) settle(a admission) {
	l.pending[a.offer]()
	delete(l.pending, a.offer)
	var refusal *Refusal
	switch {
	case a.err == nil:
		l.admitted[a.offer] = a.admitted
		l.retryWait = retryFirst
	case errors.As(a.err, &refusal):
		l.refused[a.offer] = true
		l.Log.Warn("expert refused", slog.String("offer", a.offer.String()), slog.Any("error", a.err))
	case !errors.Is(a.err, context.Canceled):
		l.retryAt = time.Now().Add(l.retryWait)
		l.retryWait = min(2*l.retryWait, lookEvery)
		l.Log.Info("expert not admitted yet", slog.String("offer", a.offer.String()), slog.Any("error", a.err))
	}
}

// keys returns the set of m's keys.
func keys[V any](m map[cid.Cid]V) map[cid.Cid]bool {
	set := make(map[cid.Cid]bool, len(m))
	for k := range m {
		set[k] = true
	}
	return set
}
