package steward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// A fakeNode is a ledger and hands in memory.
type fakeNode struct {
	mu        sync.Mutex
	changed   chan struct{}
	standings map[string]ledger.Standing // of an offer by name, before its lease is looked at
	behind    time.Duration              // of the clock
	high      time.Time                  // the highest that was observed
	unseen    bool                       // something was used for longer before the time was on record
	verdicts  []ledger.Verdict
	events    []ledger.Event
	blobs     map[cid.Cid]bool
	using     []cid.Cid
	why       string
	until     time.Time
	dropped   []cid.Cid
	renewed   [][]cid.Cid
	renewErr  error
	looks     int
	stated    []cid.Cid

	fetch func(ctx context.Context) error // before a blob is there; nil: at once
	load  func(ctx context.Context) error // nil: at once
}

func newFake() *fakeNode {
	return &fakeNode{changed: make(chan struct{}), standings: make(map[string]ledger.Standing), blobs: make(map[cid.Cid]bool)}
}

// run runs a steward of f, and returns how to end it.
func (f *fakeNode) run(reconciled <-chan struct{}) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s := &Steward{Member: "me", Ledger: f, Hands: f, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Reconciled: reconciled}
	wg.Go(func() { s.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

// set changes what the ledger says of an offer.
func (f *fakeNode) set(name string, change func(*ledger.Standing)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, ok := f.standings[name]
	if !ok {
		st = offered(name, "them", ledger.Lapsed)
	}
	change(&st)
	f.standings[name] = st
	close(f.changed)
	f.changed = make(chan struct{})
}

// leased puts an offer under a lease that ends after d.
func (f *fakeNode) leased(name string, d time.Duration) {
	f.set(name, func(st *ledger.Standing) { st.State, st.Until = ledger.Active, time.Now().UTC().Add(d).Round(0) })
}

func (f *fakeNode) revoke(name string) {
	f.set(name, func(st *ledger.Standing) { st.State = ledger.Revoked })
}

func (f *fakeNode) uses(names ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.EqualFunc(f.using, names, func(c cid.Cid, n string) bool { return c == id(n) })
}

func (f *fakeNode) kinds(name string) (kinds []ledger.EventKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.Offer == id(name) {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (f *fakeNode) Charter() *notice.Charter {
	return &notice.Charter{LeaseSeconds: int64(lease / time.Second), MaxBlobBytes: 1 << 20}
}

func (f *fakeNode) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeNode) Observe(at time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.behind > 0 {
		return ledger.ErrClockBehind
	}
	f.high = at
	return nil
}

// observed returns the highest time on record.
func (f *fakeNode) observed() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.high
}

func (f *fakeNode) Standings(at time.Time) (all []ledger.Standing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.standings)) {
		st := f.standings[name]
		if st.State == ledger.Active && !at.Before(st.Until) {
			st.State = ledger.Lapsed
		}
		all = append(all, st)
	}
	return all
}

func (f *fakeNode) Verdicts() ([]ledger.Verdict, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.verdicts), nil
}

func (f *fakeNode) SetVerdict(v ledger.Verdict) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verdicts = append(f.verdicts, v)
	return nil
}

func (f *fakeNode) Record(events ...ledger.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, events...)
	return nil
}

func (f *fakeNode) Held(blob cid.Cid) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blobs[blob]
}

func (f *fakeNode) Fetch(ctx context.Context, blob cid.Cid, _ int64) error {
	if f.fetch != nil {
		if err := f.fetch(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[blob] = true
	return nil
}

func (f *fakeNode) Load(ctx context.Context, st ledger.Standing) (Expert, error) {
	if f.load != nil {
		return st.Notice, f.load(ctx)
	}
	return st.Notice, nil
}

func (f *fakeNode) Use(set []Admitted, why string, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until.After(f.until) && !f.high.Equal(time.Now()) {
		f.unseen = true
	}
	f.using, f.why, f.until = nil, why, until
	for _, a := range set {
		f.using = append(f.using, a.Notice)
	}
}

func (f *fakeNode) Drop(a Admitted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.using, a.Notice) {
		panic("dropped while it is in use")
	}
	f.dropped = append(f.dropped, a.Expert.(cid.Cid))
}

func (f *fakeNode) Delete(blob cid.Cid) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.blobs, blob)
	return true, nil
}

func (f *fakeNode) Renew(_ context.Context, offers []cid.Cid) error {
	f.mu.Lock()
	f.renewed = append(f.renewed, offers)
	err := f.renewErr
	f.mu.Unlock()
	if err == nil {
		f.leased("own", lease)
	}
	return err
}

func (f *fakeNode) State(_ context.Context, revoked []ledger.Standing) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, st := range revoked {
		if slices.Contains(f.using, st.Notice) || f.blobs[st.Offer.Blob] {
			panic("stated before it was gone")
		}
		f.stated = append(f.stated, st.Notice)
	}
	return nil
}

func (f *fakeNode) Looked() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
}

func TestAnExpertIsAdmittedUsedAndDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.run(nil)()
		f.leased("a", lease)
		f.leased("b", lease)
		if synctest.Wait(); !f.uses("a", "b") || !f.until.Round(0).Equal(time.Now().Add(lease).Round(0)) {
			t.Fatalf("in use: %v until %v", f.using, f.until)
		}
		f.revoke("a")
		if synctest.Wait(); !f.uses("b") || f.Held(id("blob of a")) || !f.Held(id("blob of b")) || !slices.Equal(f.dropped, []cid.Cid{id("a")}) {
			t.Errorf("after the revocation: in use %v, blobs %v, dropped %v", f.using, f.blobs, f.dropped)
		}
		want := []ledger.EventKind{ledger.EventAdmitted, ledger.EventDropped, ledger.EventDeleted}
		if got := f.kinds("a"); !slices.Equal(got, want) {
			t.Errorf("events %v, expected %v", got, want)
		}
	})
}

func TestTheNodeGivesItsWordOnceWhenARevokedExpertIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.run(nil)()
		f.leased("a", lease)
		f.leased("b", lease)
		synctest.Wait()
		f.revoke("a")
		f.revoke("unknown until now")
		time.Sleep(10 * lookEvery)
		if synctest.Wait(); len(f.stated) != 2 || !slices.Contains(f.stated, id("a")) {
			t.Errorf("stated %v", f.stated)
		}
	})
}

func TestALeaseThatEndsBetweenTwoLooksEndsUseAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.run(nil)()
		f.leased("a", 90*time.Second+time.Millisecond)
		time.Sleep(90 * time.Second)
		if synctest.Wait(); !f.uses("a") {
			t.Fatal("it ended early")
		}
		time.Sleep(time.Millisecond)
		if synctest.Wait(); !f.uses() || f.why != NoneStands || f.Held(id("blob of a")) {
			t.Errorf("in use %v because %q", f.using, f.why)
		}
	})
}

func TestAnAdmissionThatEndsAfterItsRevocationIsDroppedAndNeverUsed(t *testing.T) {
	for name, step := range map[string]func(*fakeNode, func(context.Context) error){
		"in its fetch":       func(f *fakeNode, w func(context.Context) error) { f.fetch = w },
		"while it is loaded": func(f *fakeNode, w func(context.Context) error) { f.load = w },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			release := make(chan struct{})
			step(f, func(context.Context) error { <-release; return nil }) // deaf to its context
			defer f.run(nil)()
			f.leased("a", lease)
			synctest.Wait()
			f.revoke("a")
			synctest.Wait()
			close(release)
			synctest.Wait()
			if !slices.Equal(f.dropped, []cid.Cid{id("a")}) || !f.uses() || f.Held(id("blob of a")) || slices.Contains(f.kinds("a"), ledger.EventDropped) {
				t.Errorf("%s: dropped %v, in use %v, events %v", name, f.dropped, f.using, f.kinds("a"))
			}
		})
	}
}

func TestARefusedExpertLeavesNoBlobAndStaysRefusedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		loads := 0
		f.load = func(context.Context) error { loads++; return Refuse("it computes NaN") }
		end := f.run(nil)
		f.leased("a", lease)
		if synctest.Wait(); f.Held(id("blob of a")) || !slices.Equal(f.kinds("a"), []ledger.EventKind{ledger.EventRefused, ledger.EventDeleted}) {
			t.Errorf("blobs %v, events %v", f.blobs, f.kinds("a"))
		}
		end()
		defer f.run(nil)()
		if synctest.Wait(); loads != 1 || f.Held(id("blob of a")) {
			t.Errorf("loaded %d times, blobs %v", loads, f.blobs)
		}
	})
}

func TestUnreconciledNothingIsUsedUntilSomebodyIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		reached := make(chan struct{})
		defer f.run(reached)()
		f.leased("a", lease)
		time.Sleep(5 * time.Minute)
		if synctest.Wait(); f.why != NotReconciled || len(f.events) > 0 {
			t.Fatalf("in use %v because %q, events %v", f.using, f.why, f.events)
		}
		close(reached)
		if synctest.Wait(); !f.uses("a") {
			t.Errorf("in use %v because %q", f.using, f.why)
		}
	})
}

func TestTheTimeIsOnRecordBeforeALeaseIsReliedOnAndOnceItHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.run(nil)()
		const odd = 17 * time.Second // so that no look is due by itself
		time.Sleep(odd)
		f.leased("a", lease)
		synctest.Wait()
		time.Sleep(odd)
		f.leased("a", lease+odd) // renewed
		synctest.Wait()
		if f.unseen || !f.uses("a") {
			t.Errorf("used before the time was on record: %v; in use %v", f.unseen, f.using)
		}
		time.Sleep(lease + odd)
		if synctest.Wait(); !f.uses() || !f.observed().Equal(time.Now()) {
			t.Errorf("in use %v; the time on record is %v before the end of the lease", f.using, time.Since(f.observed()))
		}
		time.Sleep(odd)
		f.leased("a", lease)
		synctest.Wait()
		f.mu.Lock()
		f.behind = time.Hour
		f.mu.Unlock()
		f.leased("a", 2*lease)
		if synctest.Wait(); !f.uses() {
			t.Errorf("a clock that was set back lets %v be used under another lease", f.using)
		}
	})
}

func TestAClockSetBackEndsUseWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.run(nil)()
		f.leased("a", lease)
		synctest.Wait()
		f.mu.Lock()
		f.behind = time.Hour
		f.mu.Unlock()
		time.Sleep(lookEvery)
		if synctest.Wait(); !f.uses() || !f.Held(id("blob of a")) || len(f.dropped) != 1 {
			t.Errorf("in use %v because %q, blobs %v", f.using, f.why, f.blobs)
		}
	})
}

func TestTheOwnLeaseIsRenewedAtAThirdAndAgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("own", func(st *ledger.Standing) { st.Member = "me" })
		f.leased("own", lease)
		defer f.run(nil)()
		time.Sleep(lease/3 - time.Second)
		if synctest.Wait(); len(f.renewed) != 0 {
			t.Fatalf("renewed early: %v", f.renewed)
		}
		f.mu.Lock()
		f.renewErr = errors.New("the disk is full")
		f.mu.Unlock()
		time.Sleep(time.Second)
		if synctest.Wait(); len(f.renewed) != 1 {
			t.Fatalf("renewed %d times at a third", len(f.renewed))
		}
		for range 10 { // what else happens does not make it try in a loop
			f.leased("a", lease)
			synctest.Wait()
		}
		if len(f.renewed) != 1 {
			t.Errorf("tried %d times", len(f.renewed))
		}
		f.mu.Lock()
		f.renewErr = nil
		f.mu.Unlock()
		time.Sleep(lookEvery)
		if synctest.Wait(); len(f.renewed) != 2 {
			t.Errorf("renewed %d times", len(f.renewed))
		}
	})
}

func TestFetchesThatFailAreTriedAtGrowingDistances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		tries := 0
		f.fetch = func(context.Context) error { tries++; return errors.New("nobody serves it") }
		defer f.run(nil)()
		f.leased("a", 24*time.Hour)
		time.Sleep(time.Hour)
		if synctest.Wait(); tries < 60 || tries > 75 {
			t.Errorf("%d tries in an hour", tries)
		}
	})
}

func TestAtTheEndNothingIsUsedOrUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		end := f.run(nil)
		f.leased("a", lease)
		synctest.Wait()
		f.fetch = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		f.leased("b", lease)
		synctest.Wait()
		end()
		if !f.uses() || !slices.Equal(f.dropped, []cid.Cid{id("a")}) || slices.Contains(f.kinds("a"), ledger.EventDropped) {
			t.Errorf("in use %v, dropped %v, events %v", f.using, f.dropped, f.events)
		}
	})
}
