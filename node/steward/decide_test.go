package steward

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

// id returns a CID that stands for a name.
func id(name string) cid.Cid {
	sum, err := mh.Sum([]byte(name), mh.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, sum)
}

// t0 is when the looks of the tests begin, t0 + 1h the end of their leases.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const lease = time.Hour

// offered is an offer "x" of a member, whose blob is "blob of x", under a lease that began at t0.
func offered(name, member string, state ledger.State) ledger.Standing {
	st := ledger.Standing{Notice: id(name), Member: member, State: state, Offer: &notice.Offer{Blob: id("blob of " + name)}}
	if state == ledger.Active {
		st.Until = t0.Add(lease)
	}
	return st
}

func set(names ...string) map[cid.Cid]bool {
	m := make(map[cid.Cid]bool)
	for _, n := range names {
		m[id(n)] = true
	}
	return m
}

func TestDecide(t *testing.T) {
	const active, revoked, lapsed, suspended = ledger.Active, ledger.Revoked, ledger.Lapsed, ledger.Suspended
	own := func(name string, state ledger.State, until time.Duration) ledger.Standing {
		st := offered(name, "me", state)
		st.Until = t0.Add(until)
		return st
	}
	sharing := func(st ledger.Standing, name string) ledger.Standing {
		st.Offer = &notice.Offer{Blob: id("blob of " + name)}
		return st
	}
	for _, tt := range []struct {
		name      string
		at        time.Duration // after t0
		standings []ledger.Standing
		change    func(*View)

		use, drop, cancel, delete, renew, admit []string      // names of offers, of delete those of their blobs
		why                                     string        // part of it
		again                                   time.Duration // after t0; 0: not checked
	}{
		{name: "nothing is on offer", why: NoneStands, again: lookEvery},
		{
			name: "what stands and is not here yet is admitted", standings: []ledger.Standing{offered("a", "them", active)},
			admit: []string{"a"}, why: NoneStands,
		},
		{
			name: "what stands and is admitted is used, in the order of standings", standings: []ledger.Standing{offered("b", "bank", active), offered("a", "clinic", active)},
			change: func(v *View) { v.Admitted = set("a", "b") }, use: []string{"b", "a"},
		},
		{
			name: "what is pending is not admitted twice", standings: []ledger.Standing{offered("a", "them", active)},
			change: func(v *View) { v.Pending = set("a") }, why: NoneStands,
		},
		{
			name: "a revocation ends use", standings: []ledger.Standing{offered("a", "them", revoked)},
			change: func(v *View) { v.Admitted = set("a") }, drop: []string{"a"}, delete: []string{"a"}, why: NoneStands,
		},
		{
			name:      "a revocation wins over a lease in force, the member's own included",
			standings: []ledger.Standing{own("a", revoked, lease)},
			change:    func(v *View) { v.Admitted = set("a") }, drop: []string{"a"}, delete: []string{"a"}, why: NoneStands,
		},
		{
			name: "a revocation counts while the clock is behind", standings: []ledger.Standing{offered("a", "them", revoked), offered("b", "them", active)},
			change: func(v *View) { v.Admitted, v.Clock = set("a", "b"), errors.New("it is behind") },
			drop:   []string{"a", "b"}, delete: []string{"a"}, why: "the clock cannot be trusted: it is behind",
		},
		{
			name: "a revocation counts before anybody was reached", standings: []ledger.Standing{offered("a", "them", revoked)},
			change: func(v *View) { v.Reconciled = false }, delete: []string{"a"}, why: NotReconciled,
		},
		{
			name: "a revocation cancels the admission under way", standings: []ledger.Standing{offered("a", "them", revoked)},
			change: func(v *View) { v.Pending = set("a") }, cancel: []string{"a"}, delete: []string{"a"}, why: NoneStands,
		},
		{
			name: "an admission that ends after its revocation is dropped unused", standings: []ledger.Standing{offered("a", "them", revoked)},
			change: func(v *View) { v.Admitted = set("a") }, drop: []string{"a"}, delete: []string{"a"}, why: NoneStands,
		},
		{
			name: "the next look is at the end of the first lease", at: lease - 10*time.Second, standings: []ledger.Standing{offered("a", "them", active)},
			change: func(v *View) { v.Admitted = set("a") }, use: []string{"a"}, again: lease,
		},
		{
			name: "a lease that has ended ends use", at: lease, standings: []ledger.Standing{offered("a", "them", lapsed)},
			change: func(v *View) { v.Admitted = set("a") }, drop: []string{"a"}, delete: []string{"a"}, why: NoneStands,
		},
		{
			name:      "with the clock set back nothing is used, deleted, admitted or signed",
			standings: []ledger.Standing{offered("a", "them", active), offered("b", "them", lapsed), offered("c", "them", active), own("d", active, time.Minute)},
			change:    func(v *View) { v.Admitted, v.Clock = set("a"), errors.New("it is behind") },
			drop:      []string{"a"}, why: "the clock cannot be trusted: it is behind",
		},
		{
			name:      "before anybody was reached nothing is used, deleted, admitted or signed",
			standings: []ledger.Standing{offered("a", "them", active), offered("b", "them", lapsed), own("d", active, time.Minute)},
			change:    func(v *View) { v.Reconciled = false }, why: NotReconciled,
		},
		{
			name: "a suspended member's expert goes, and its blob", standings: []ledger.Standing{offered("a", "them", suspended)},
			change: func(v *View) { v.Admitted = set("a") }, drop: []string{"a"}, delete: []string{"a"}, why: NoneStands,
		},
		{
			name: "what is refused is not fetched again, and its blob goes", standings: []ledger.Standing{offered("a", "them", active)},
			change: func(v *View) { v.Refused = set("a") }, delete: []string{"a"}, why: NoneStands,
		},
		{
			name: "the member's own blob stays where its own node refuses the expert", standings: []ledger.Standing{own("a", active, lease)},
			change: func(v *View) { v.Refused = set("a") }, why: NoneStands,
		},
		{
			name: "the member's own blob stays between its offer and its lease", standings: []ledger.Standing{offered("a", "me", lapsed)}, why: NoneStands,
		},
		{
			name:      "a blob stays while another offer in force names it",
			standings: []ledger.Standing{offered("a", "them", revoked), sharing(offered("b", "them", active), "a")},
			change:    func(v *View) { v.Admitted = set("a", "b") }, use: []string{"b"}, drop: []string{"a"},
		},
		{
			name: "a blob that two offers named goes once", standings: []ledger.Standing{offered("a", "them", revoked), sharing(offered("b", "them", revoked), "a")},
			delete: []string{"a"}, why: NoneStands,
		},
		{
			name: "the own lease is renewed once a third of it has passed", at: lease / 3, standings: []ledger.Standing{own("a", active, lease)},
			change: func(v *View) { v.Admitted = set("a") }, use: []string{"a"}, renew: []string{"a"},
		},
		{
			name: "and looked at when that will be", at: lease/3 - time.Second, standings: []ledger.Standing{own("a", active, lease)},
			change: func(v *View) { v.Admitted = set("a") }, use: []string{"a"}, again: lease / 3,
		},
		{
			name: "an own lease that ran out is renewed, what it left out is not", at: 2 * lease,
			standings: []ledger.Standing{own("a", lapsed, lease), offered("b", "me", lapsed)}, renew: []string{"a"}, why: NoneStands,
		},
		{
			name: "a revoked offer is left out of the renewal", at: lease / 2, standings: []ledger.Standing{own("a", revoked, lease), own("b", active, lease)},
			change: func(v *View) { v.Admitted = set("b") }, use: []string{"b"}, delete: []string{"a"}, renew: []string{"b"},
		},
		{
			name: "a member that is suspended signs no lease", at: lease / 2, standings: []ledger.Standing{own("a", suspended, lease)}, why: NoneStands,
		},
		{
			name: "nothing is signed before everybody in reach was heard", at: lease / 2, standings: []ledger.Standing{own("a", active, lease)},
			change: func(v *View) { v.Admitted, v.CaughtUp = set("a"), false }, use: []string{"a"},
		},
		{
			name: "a renewal waits for a member that has come and was not heard yet", at: lease/3 + 10*time.Second, standings: []ledger.Standing{own("a", active, lease)},
			change: func(v *View) { v.Admitted, v.Unheard = set("a"), true }, use: []string{"a"}, again: lease/3 + lookEvery,
		},
		{
			name: "but not for ever", at: lease/3 + lookEvery, standings: []ledger.Standing{own("a", active, lease)},
			change: func(v *View) { v.Admitted, v.Unheard = set("a"), true }, use: []string{"a"}, renew: []string{"a"},
		},
		{
			name: "what could not be fetched waits its time", standings: []ledger.Standing{offered("a", "them", active)},
			change: func(v *View) { v.RetryAt = v.At.Add(5 * time.Second) }, why: NoneStands, again: 5 * time.Second,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := View{At: t0.Add(tt.at), Member: "me", Lease: lease, Standings: tt.standings, Reconciled: true, CaughtUp: true}
			if tt.change != nil {
				tt.change(&v)
			}
			p := Decide(v)
			same := func(what string, got []cid.Cid, want []string, ordered bool) {
				var ids []cid.Cid
				for _, n := range want {
					ids = append(ids, id(n))
				}
				if !ordered {
					slices.SortFunc(got, notice.CompareCID)
					slices.SortFunc(ids, notice.CompareCID)
				}
				if !slices.Equal(got, ids) {
					t.Errorf("%s: %v, expected %v of %q", what, got, ids, want)
				}
			}
			var drop, admit, blobs []cid.Cid
			for _, d := range p.Drop {
				drop = append(drop, d.Offer)
				if d.Detail == "" {
					t.Error("a drop without a reason")
				}
			}
			for _, st := range p.Admit {
				admit = append(admit, st.Notice)
			}
			for _, d := range p.Delete {
				blobs = append(blobs, d.Blob)
			}
			for i, name := range tt.delete {
				tt.delete[i] = "blob of " + name
			}
			same("use", p.Use, tt.use, true)
			same("drop", drop, tt.drop, false)
			same("cancel", p.Cancel, tt.cancel, false)
			same("delete", blobs, tt.delete, false)
			same("renew", p.Renew, tt.renew, false)
			same("admit", admit, tt.admit, false)
			if !strings.Contains(p.Why, tt.why) || (p.Why == "") != (len(tt.use) > 0) {
				t.Errorf("why: %q, expected %q", p.Why, tt.why)
			}
			if p.Until.IsZero() != (len(tt.use) == 0) || !p.Until.IsZero() && !p.Until.Equal(t0.Add(lease)) {
				t.Errorf("until %v", p.Until)
			}
			if tt.again != 0 && !p.Again.Equal(t0.Add(tt.again)) {
				t.Errorf("again at %v, expected %v", p.Again, t0.Add(tt.again))
			}
			if p.Again.After(v.At.Add(lookEvery)) {
				t.Errorf("again at %v, over %v after the look", p.Again, lookEvery)
			}
		})
	}
}

func TestALeaseIsOverByEitherClock(t *testing.T) {
	start := time.Now()
	until := start.Add(lease) // has a monotonic part
	later := start.Add(lease + time.Second)
	for name, tt := range map[string]struct {
		now  time.Time
		over bool
	}{
		"before the end":                 {start, false},
		"after it":                       {later, true},
		"the wall's clock alone says so": {later.Round(0), true},
		"the end, to the nanosecond":     {start.Add(lease), true},
		"the moment before":              {start.Add(lease - 1), false},
	} {
		if got := Over(tt.now, until); got != tt.over {
			t.Errorf("%s: %v", name, got)
		}
	}
}
