package steward

import (
	"cmp"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// lookEvery bounds how long a steward goes without looking at its clock.
const lookEvery = time.Minute

// Why a node serves the anchor alone.
const (
	ClockUntrusted = "the clock cannot be trusted: " // and how it shows
	NotReconciled  = "no other member could be reached since the start, so a revocation may have been missed"
	NoneStands     = "no expert stands under a valid lease"
)

// A View is all that a decision depends on.
type View struct {
	At         time.Time // of the look, with its monotonic part
	Member     string    // whose node this is
	Lease      time.Duration
	Standings  []ledger.Standing // at At, in the order of members and then of offers
	Clock      error             // why the clock cannot be trusted
	Reconciled bool              // the node has heard from another member since its start, or there is none
	CaughtUp   bool              // and from every one that it can reach, so that it knows how far its own feed goes
	Unheard    bool              // a member is connected now from whom it has not, which came later

	Admitted map[cid.Cid]bool // offers whose experts are loaded
	Refused  map[cid.Cid]bool // offers that admission has decided against, for good
	Pending  map[cid.Cid]bool // offers whose admission is under way
	RetryAt  time.Time        // no admission begins before
}

// A Plan is what follows from a view: it is to be carried out in the order of its fields.
type Plan struct {
	Use   []cid.Cid // the offers whose experts may be used from now on, in the order of slots
	Why   string    // if there are none, why
	Until time.Time // the first end of a lease of Use, with a monotonic part; zero if there are none

	Drop    []Drop            // admitted offers that are not to be used any more
	Cancel  []cid.Cid         // pending admissions that would come to nothing
	Delete  []Deletion        // blobs that must not be held, whether or not they are
	Revoked []ledger.Standing // what the owners are to be told of: it is let go of by now, and its blob deleted
	Renew   []cid.Cid         // what this member's own lease, which is due, is to list; nil if it is not due
	Admit   []ledger.Standing
	Again   time.Time // when to look again at the latest, with a monotonic part
}

// A Drop is an expert that leaves.
type Drop struct {
	Offer  cid.Cid
	Detail string // why
}

// A Deletion is a blob that no offer in force names.
type Deletion struct {
	Blob, Offer cid.Cid
	Detail      string // why
}

// Decide says what a node must do. It is pure.
//
// While the clock or the node's knowledge cannot be relied on, nothing is used or signed, and nothing is deleted
// but what is revoked: a revocation counts in any case.
func Decide(v View) Plan {
	p := Plan{Again: v.At.Add(lookEvery)}
	switch {
	case v.Clock != nil:
		p.Why = ClockUntrusted + v.Clock.Error()
	case !v.Reconciled:
		p.Why = NotReconciled
	}
	trusted := p.Why == ""
	states := make(map[cid.Cid]string, len(v.Standings))
	may := make(map[cid.Cid]bool, len(v.Standings))
	for _, st := range v.Standings {
		states[st.Notice] = string(st.State)
		if !trusted || st.State != ledger.Active || v.Refused[st.Notice] {
			continue
		}
		may[st.Notice] = true
		until := v.monotonic(st.Until)
		p.Again = earlier(p.Again, until)
		switch {
		case v.Admitted[st.Notice]:
			p.Use = append(p.Use, st.Notice)
			if p.Until.IsZero() || until.Before(p.Until) {
				p.Until = until
			}
		case v.Pending[st.Notice]:
		case v.At.Before(v.RetryAt):
			p.Again = earlier(p.Again, v.monotonic(v.RetryAt))
		default:
			p.Admit = append(p.Admit, st)
		}
	}
	if trusted && len(p.Use) == 0 {
		p.Why = NoneStands
	}
	for offer := range v.Admitted {
		if !may[offer] {
			why := states[offer]
			if why == "" || why == string(ledger.Active) {
				why = p.Why
			}
			p.Drop = append(p.Drop, Drop{offer, why})
		}
	}
	slices.SortFunc(p.Drop, func(a, b Drop) int { return cmp.Compare(a.Offer.KeyString(), b.Offer.KeyString()) })
	for offer := range v.Pending {
		if !may[offer] {
			p.Cancel = append(p.Cancel, offer)
		}
	}
	p.Delete = v.deletions(trusted)
	if trusted && v.CaughtUp {
		for _, st := range v.Standings {
			if st.State == ledger.Revoked && !v.Pending[st.Notice] {
				p.Revoked = append(p.Revoked, st)
			}
		}
		var due time.Time
		if p.Renew, due = v.renewal(); p.Renew == nil && !due.IsZero() {
			p.Again = earlier(p.Again, due)
		}
	}
	return p
}

// deletions returns every blob of an expert that is revoked and, if leases can be judged, of one that is refused
// or that no active offer names. This member's own stay until it revokes them: between an offer and its first lease
// they are not active yet, and whether others can use them is for others to say.
func (v View) deletions(trusted bool) (all []Deletion) {
	keep := make(map[cid.Cid]bool)
	gone := func(st ledger.Standing) (string, bool) {
		switch {
		case st.State == ledger.Revoked:
			return string(st.State), true
		case !trusted || st.Member == v.Member:
			return "", false
		case v.Refused[st.Notice]:
			return "refused", true
		}
		return string(st.State), st.State != ledger.Active
	}
	for _, st := range v.Standings {
		if _, ok := gone(st); !ok {
			keep[st.Offer.Blob] = true
		}
	}
	for _, st := range v.Standings {
		if blob := st.Offer.Blob; !keep[blob] {
			keep[blob] = true // once
			why, _ := gone(st)
			all = append(all, Deletion{blob, st.Notice, why})
		}
	}
	return all
}

// renewal returns what the member's own next lease lists, once a third of the newest has passed, or else when
// that will be: zero if there is nothing to renew. It waits for members that are connected and unheard, who may know
// more of the member's feeds than anybody so far; but no longer than lookEvery, or one that says nothing ends the lease.
func (v View) renewal() (offers []cid.Cid, due time.Time) {
	for _, st := range v.Standings {
		if st.Member != v.Member || st.State != ledger.Active && st.State != ledger.Lapsed || st.Until.IsZero() {
			continue
		}
		offers = append(offers, st.Notice)
		if at := v.monotonic(st.Until).Add(-v.Lease * 2 / 3); due.IsZero() || at.Before(due) {
			due = at
		}
	}
	if end := due.Add(lookEvery); v.Unheard && !v.At.Before(due) && v.At.Before(end) {
		due = end
	}
	if v.At.Before(due) {
		return nil, due
	}
	slices.SortFunc(offers, notice.CompareCID)
	return offers, due
}

// monotonic returns t as the clock of At will show it, whoever sets that clock meanwhile.
func (v View) monotonic(t time.Time) time.Time { return v.At.Add(t.Sub(v.At)) }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Over reports whether until has come, by the clock on the wall or by the time that has passed: a clock that was
// set back makes nothing last longer, nor does one that stood still while the machine slept.
func Over(now, until time.Time) bool {
	return !now.Before(until) || !now.Round(0).Before(until.Round(0))
}
