package ledger

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// open opens the ledger in path for the time of the test.
func open(t testing.TB, path string, charter *notice.Notice) *Ledger {
	t.Helper()
	l, err := Open(path, charter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newLedger(t testing.TB) *Ledger {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "ledger.db"), aCharter(t, "pictures"))
}

func mustAppend(t testing.TB, l *Ledger, member string, now time.Time, b notice.Body) *notice.Notice {
	t.Helper()
	n, err := l.Append(keys[member], now, b)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// view is all that a ledger says, to compare two of them.
type view struct {
	Heads     []notice.Head
	Missing   []Gap
	Standings []Standing
	Notices   []string
	Usage     []Usage
	Events    []Event
	Verdicts  []Verdict
}

func look(t testing.TB, l *Ledger) view {
	t.Helper()
	v := view{Heads: l.Heads(), Missing: l.Missing(), Standings: l.Standings(midnight.Add(3 * time.Hour))}
	for n, err := range l.Notices() {
		if err != nil {
			t.Fatal(err)
		}
		v.Notices = append(v.Notices, n.CID.String())
	}
	var err1, err2, err3 error
	v.Usage, err1 = l.Usage()
	v.Events, err2 = l.Events()
	v.Verdicts, err3 = l.Verdicts()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLedgerShowsThePicturesInWhateverOrderAndAfterReopening(t *testing.T) {
	for _, pic := range slices.Concat(pictures, authorityPictures) {
		t.Run(pic.name, func(t *testing.T) {
			t.Parallel()
			p := draw(t, pic.text)
			var first *view
			for seed := range uint64(2) {
				path := filepath.Join(t.TempDir(), "ledger.db")
				l := open(t, path, p.charter)
				if order := shuffled(p.arrived, seed); seed == 0 {
					addAll(t, l, order)
				} else if _, err := l.Add(order...); err != nil && !errors.Is(err, notice.ErrRefused) {
					t.Fatal(err)
				}
				p.check(fmt.Sprintf("order %d", seed), l.consent)
				v := look(t, l)
				if first == nil {
					first = &v
				} else if !reflect.DeepEqual(v, *first) {
					t.Errorf("order %d shows\n%+v\norder 0\n%+v", seed, v, *first)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = open(t, path, p.charter)
				p.check(fmt.Sprintf("order %d, reopened", seed), l.consent)
				if again := look(t, l); !reflect.DeepEqual(again, v) {
					t.Errorf("reopened shows\n%+v\nbefore\n%+v", again, v)
				}
			}
		})
	}
}

// addAll adds notices one by one, and those that were refused again for as long
// as that helps, as later synchronisations would.
func addAll(t *testing.T, l *Ledger, all []*notice.Notice) {
	t.Helper()
	for more := true; more; {
		more = false
		var refused []*notice.Notice
		for _, n := range all {
			fresh, err := l.Add(n)
			if errors.Is(err, notice.ErrRefused) {
				refused = append(refused, n)
			} else if err != nil {
				t.Fatal(err)
			}
			more = more || len(fresh) > 0
		}
		all = refused
	}
}

// TestWhatAMethodHasReturnedSurvivesACrash takes the bytes of the file after
// each step without closing it, as a crash would leave them, and opens them.
func TestWhatAMethodHasReturnedSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	charter := aCharter(t, "pictures")
	l := open(t, path, charter)
	p := draw(t, "beta: X -> [X] -> (A) -> !X")
	var offer *notice.Notice
	steps := []func() error{
		func() error { return nil },
		func() error { _, err := l.Add(p.arrived[2]); return err },
		func() error { _, err := l.Add(p.arrived[0]); return err },
		func() (err error) { offer, err = l.Append(keys["alpha"], midnight, anOffer("Z")); return err },
		func() error { return l.Observe(midnight) },
		func() error {
			_, err := l.Append(keys["alpha"], midnight, &notice.Lease{Offers: []cid.Cid{offer.CID}, NotAfter: midnight.Add(24 * time.Hour)})
			return err
		},
		func() error { return l.RecordUsage([]Usage{{Tokens: 3, Weight: 5}, {Expert: blob("Z"), Tokens: 1}}) },
		func() error {
			return l.SetVerdict(Verdict{Offer: offer.CID, Admitted: true, Time: midnight})
		},
		func() error {
			return l.Record(Event{Time: midnight, Kind: EventAdmitted, Expert: blob("Z"), Offer: offer.CID})
		},
		func() error { _, err := l.Add(p.arrived[1]); return err },
		func() error { return l.RecordUsage([]Usage{{Tokens: 3}}) },
		func() error { _, err := l.Append(keys["alpha"], midnight, &notice.Revocation{All: true}); return err },
	}
	before := view{}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		v := look(t, l)
		if i != 4 && reflect.DeepEqual(v, before) { // step 4 shows only in Observe
			t.Errorf("step %d changed nothing", i)
		}
		before = v
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		crashed := filepath.Join(dir, fmt.Sprintf("crashed-%d.db", i))
		if err := os.WriteFile(crashed, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, crashed, charter)
		if got := look(t, c); !reflect.DeepEqual(got, v) {
			t.Errorf("step %d: after a crash\n%+v\nbefore\n%+v", i, got, v)
		}
		if err := c.Observe(midnight.Add(-time.Hour)); errors.Is(err, ErrClockBehind) != (i >= 4) {
			t.Errorf("step %d: after a crash, Observe an hour earlier = %v", i, err)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	l := newLedger(t)
	other := aCharter(t, "another")
	h := func(member string, charter *notice.Notice) notice.Header {
		return notice.Header{Charter: charter.CID, Key: notice.PublicKeyOf(keys[member]), Seq: 1, Time: midnight}
	}
	sign := func(k ed25519.PrivateKey, h notice.Header) *notice.Notice {
		o := anOffer("X")
		o.Header = h
		n, err := notice.Sign(o, k)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	good := sign(keys["alpha"], h("alpha", l.root))
	node := h("alpha", l.root)
	node.Key = notice.PublicKeyOf(key(100))
	tests := []struct {
		name string
		n    *notice.Notice
		want error
	}{
		{"a stranger's notice", sign(keys["mallory"], h("mallory", l.root)), ErrNotMember},
		{"a notice in the feed of a node key", sign(key(100), node), ErrNotMember},
		{"a notice of another consortium", sign(keys["alpha"], h("alpha", other)), ErrWrongCharter},
		{"another charter", other, ErrWrongCharter},
		{"nothing", nil, ErrUnverified},
		{"an empty notice", new(notice.Notice), ErrUnverified},
		{"a notice that Parse has not seen", &notice.Notice{CID: good.CID, Kind: good.Kind, Body: good.Body, Envelope: good.Envelope}, ErrUnverified},
	}
	before := look(t, l)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := l.Changed()
			if fresh, err := l.Add(tt.n); len(fresh) > 0 || !errors.Is(err, tt.want) || !errors.Is(err, notice.ErrRefused) || !errors.Is(l.Check(tt.n), tt.want) {
				t.Errorf("Add = %v, %v, want %v", fresh, err, tt.want)
			}
			select {
			case <-changed:
				t.Error("the ledger says that it changed")
			default:
			}
		})
	}
	if after := look(t, l); !reflect.DeepEqual(after, before) {
		t.Errorf("the ledger shows\n%+v\nbefore\n%+v", after, before)
	}
	if fresh, err := l.Add(l.root); len(fresh) > 0 || err != nil {
		t.Errorf("Add of its own charter = %v, %v", fresh, err)
	}
}

func TestAddTellsNewFromKnownAndWakesWaiters(t *testing.T) {
	l := newLedger(t)
	n := draw(t, "alpha: X").arrived[0]
	changed := l.Changed()
	if fresh, err := l.Add(n); len(fresh) != 1 || err != nil {
		t.Fatalf("Add = %v, %v", fresh, err)
	}
	<-changed
	changed = l.Changed()
	if fresh, err := l.Add(n); len(fresh) > 0 || err != nil {
		t.Errorf("Add again = %v, %v", fresh, err)
	}
	select {
	case <-changed:
		t.Error("a known notice counts as a change")
	default:
	}
}

func TestAppendContinuesTheFeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	charter := aCharter(t, "pictures")
	l := open(t, path, charter)
	body := anOffer("X")
	x := mustAppend(t, l, "alpha", midnight.Add(time.Millisecond), body)
	if h := x.Header(); h.Seq != 1 || h.Prev.Defined() || h.Charter != charter.CID || !h.Time.Equal(midnight) {
		t.Errorf("first header %+v", h)
	}
	if body.Seq != 0 {
		t.Error("Append changed the body that it was given")
	}
	lease := mustAppend(t, l, "alpha", midnight, &notice.Lease{Offers: []cid.Cid{x.CID}, NotAfter: midnight.Add(time.Hour)})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, charter)
	revocation := mustAppend(t, l, "alpha", midnight, &notice.Revocation{Offer: x.CID})
	if h := revocation.Header(); h.Seq != 3 || h.Prev != lease.CID {
		t.Errorf("third header %+v", h)
	}
	if got := l.Heads(); len(got) != 1 || got[0] != (notice.Head{Key: x.Header().Key, Seq: 3, CID: revocation.CID}) {
		t.Errorf("heads %v", got)
	}
	if s := l.Standings(midnight); len(s) != 1 || s[0].State != Revoked || s[0].RevokedBy != revocation.CID || s[0].Member != "alpha" {
		t.Errorf("standings %+v", s)
	}
	got, err := l.Get(lease.CID)
	if err != nil || !bytes.Equal(got.Envelope, lease.Envelope) {
		t.Errorf("Get = %v, %v", got, err)
	}
}

func TestAppendContinuesAboveAGap(t *testing.T) {
	l := newLedger(t)
	p := draw(t, "alpha: X -> (A) -> Y")
	for _, n := range p.arrived {
		if _, err := l.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	n := mustAppend(t, l, "alpha", midnight, &notice.Revocation{All: true})
	if h := n.Header(); h.Seq != 4 || h.Prev != p.notice("Y").CID {
		t.Errorf("header %+v", h)
	}
}

func TestAppendRefuses(t *testing.T) {
	l := newLedger(t)
	tests := []struct {
		name string
		key  ed25519.PrivateKey
		body notice.Body
		want error
	}{
		{"a stranger's key", keys["mallory"], anOffer("X"), ErrNotMember},
		{"half a key", keys["alpha"][:32], anOffer("X"), notice.ErrSignature},
		{"a charter", keys["alpha"], l.Charter(), notice.ErrMalformed},
		{"a body that says nothing", keys["alpha"], new(notice.Offer), notice.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := l.Append(tt.key, midnight, tt.body); n != nil || !errors.Is(err, tt.want) {
				t.Errorf("Append = %v, %v, want %v", n, err, tt.want)
			}
		})
	}
	if n := mustAppend(t, l, "alpha", midnight, anOffer("X")); n.Header().Seq != 1 {
		t.Errorf("a refused body used up a seq: next is %d", n.Header().Seq)
	}
}

func TestAfterPagesThroughAFeedAndItsForks(t *testing.T) {
	l := newLedger(t)
	p := draw(t, `
		alpha: A -> B -> C -> D
		alpha: @A -> B2 -> C2
		beta: E -> F`)
	for _, n := range shuffled(p.arrived, 7) {
		if _, err := l.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	alpha := notice.PublicKeyOf(keys["alpha"])
	for limit := 1; limit < 8; limit++ {
		var seqs []uint64
		var all []cid.Cid
		seq := uint64(0)
		for {
			page, err := l.After(alpha, seq, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			if len(page) > limit+1 { // no seq has more than two
				t.Errorf("limit %d: page of %d", limit, len(page))
			}
			for _, n := range page {
				seqs, all = append(seqs, n.Header().Seq), append(all, n.CID)
			}
			seq = seqs[len(seqs)-1]
		}
		if want := []uint64{1, 2, 2, 3, 3, 4}; !slices.Equal(seqs, want) {
			t.Errorf("limit %d: seqs %v, want %v", limit, seqs, want)
		}
		for _, name := range []string{"A", "B", "C", "D", "B2", "C2"} {
			if !slices.Contains(all, p.notice(name).CID) {
				t.Errorf("limit %d: %s is left out", limit, name)
			}
		}
	}
	for _, tt := range []struct {
		key   notice.PublicKey
		seq   uint64
		limit int
	}{{alpha, 4, 10}, {alpha, math.MaxUint64, 10}, {alpha, notice.MaxSeq, 10}, {alpha, 0, 0}, {alpha, 0, -1}, {notice.PublicKey{}, 0, 10}} {
		if page, err := l.After(tt.key, tt.seq, tt.limit); len(page) != 0 || err != nil {
			t.Errorf("After(%v, %d, %d) = %d notices, %v", tt.key, tt.seq, tt.limit, len(page), err)
		}
	}
}

func TestNoticesYieldsTheCharterThenTheFeeds(t *testing.T) {
	l := newLedger(t)
	p := draw(t, "beta: E -> F")
	want := []cid.Cid{l.Root()}
	for i := range 150 { // more than two pages
		want = append(want, mustAppend(t, l, "alpha", midnight, anOffer(fmt.Sprint(i))).CID)
	}
	for _, n := range p.arrived {
		if _, err := l.Add(n); err != nil {
			t.Fatal(err)
		}
		want = append(want, n.CID)
	}
	var got []cid.Cid
	for n, err := range l.Notices() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n.CID)
		// The loop may write.
		if err := l.Record(Event{Time: midnight, Kind: EventRefused, Offer: n.CID}); err != nil {
			t.Fatal(err)
		}
		if len(got) == 151 {
			break
		}
	}
	if !slices.Equal(got, want[:151]) {
		t.Errorf("got %d notices, want %d", len(got), 151)
	}
	if v := look(t, l); len(v.Notices) != len(want) || v.Notices[152] != want[152].String() {
		t.Errorf("got %d notices, want %d", len(v.Notices), len(want))
	}
}

func TestGetKnowsTheCharterAndWhatIsMissing(t *testing.T) {
	l := newLedger(t)
	if n, err := l.Get(l.Root()); err != nil || n.CID != l.Root() {
		t.Errorf("Get of the root = %v, %v", n, err)
	}
	for _, id := range []cid.Cid{blob("x"), cid.Undef} {
		if n, err := l.Get(id); n != nil || !errors.Is(err, ErrNotFound) {
			t.Errorf("Get = %v, %v, want ErrNotFound", n, err)
		}
	}
}

func TestManyGoroutinesShareALedger(t *testing.T) {
	l := newLedger(t)
	p := draw(t, `
		beta: X -> [X] -> Y -> [X,Y] -> !X
		gamma: Z -> m=[Z] -> A -> B`)
	changed := l.Changed()
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for seed := range uint64(4) {
		wg.Go(func() {
			for _, n := range shuffled(p.arrived, seed) {
				new, err := l.Add(n)
				if err != nil {
					t.Error(err)
				}
				if len(new) > 0 {
					mu.Lock()
					fresh++
					mu.Unlock()
				}
			}
		})
		wg.Go(func() {
			for i := range 5 {
				if _, err := l.Append(keys["alpha"], midnight, anOffer(fmt.Sprint(seed, i))); err != nil {
					t.Error(err)
				}
				if err := errors.Join(l.Observe(midnight), l.RecordUsage([]Usage{{Tokens: 1}}), l.Record(Event{Kind: EventDropped})); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			<-changed
			for range 20 {
				l.Standings(midnight)
				l.Missing()
				for _, h := range l.Heads() {
					if _, err := l.Get(h.CID); err != nil {
						t.Errorf("a head that is not there: %v", err)
					}
				}
				l.Changed()
			}
		})
	}
	wg.Wait()
	if fresh != len(p.arrived) {
		t.Errorf("%d notices were new, want each once: %d", fresh, len(p.arrived))
	}
	heads := l.Heads()
	if len(heads) != 3 || heads[0].Seq != 20 || heads[1].Seq != 5 || heads[2].Seq != 4 {
		t.Errorf("heads %v: a feed of our own must not fork", heads)
	}
	if u, err := l.Usage(); err != nil || len(u) != 1 || u[0].Tokens != 20 {
		t.Errorf("usage %v, %v", u, err)
	}
}

func TestAClosedLedgerSaysSo(t *testing.T) {
	l := newLedger(t)
	mustAppend(t, l, "alpha", midnight, anOffer("X"))
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(keys["alpha"], midnight, anOffer("Y")); err == nil {
		t.Error("Append works")
	}
	if _, err := l.Usage(); err == nil {
		t.Error("Usage works")
	}
	if s := l.Standings(midnight); len(s) != 1 {
		t.Errorf("standings %v: what was not stored must not count", s)
	}
}

func BenchmarkAdd(b *testing.B) {
	l := newLedger(b)
	for i := 0; b.Loop(); i++ {
		mustAppend(b, l, "alpha", midnight, anOffer(fmt.Sprint(i)))
	}
}
