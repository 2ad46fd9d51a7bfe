package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

// transactions returns how many have written to the file.
func transactions(t testing.TB, l *Ledger) (n int) {
	t.Helper()
	if err := l.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAddTakesInManyInWhateverOrderAndLeavesOutTheRest(t *testing.T) {
	l := newLedger(t)
	p := draw(t, `
		alpha: X -> >d:renew
		d: m=[X]
		charter c2 after c1 by alpha,beta: 9/day
		charter c3 after c2 by alpha,beta: 8/day`)
	stranger := anOffer("Z")
	stranger.Header = notice.Header{Charter: l.Root(), Key: public("mallory"), Seq: 1, Time: midnight}
	z, err := notice.Sign(stranger, keys["mallory"])
	if err != nil {
		t.Fatal(err)
	}
	all := append(shuffled(p.arrived, 1), z, nil)
	fresh, err := l.Add(all...)
	if !errors.Is(err, notice.ErrRefused) || !errors.Is(err, ErrNotMember) || !errors.Is(err, ErrUnverified) || errors.Is(err, ErrOrphan) {
		t.Errorf("error %v", err)
	}
	if len(fresh) != len(p.arrived) || slices.Contains(fresh, z) {
		t.Errorf("%d notices are new, want %d", len(fresh), len(p.arrived))
	}
	if got := l.Charter().Version; got != 3 {
		t.Errorf("charter version %d, want 3", got)
	}
	if s := l.Standings(midnight.Add(time.Hour)); len(s) != 1 || s[0].State != Active {
		t.Errorf("standings %+v", s)
	}
	if fresh, err := l.Add(p.arrived...); len(fresh) > 0 || err != nil {
		t.Errorf("again: %v, %v", fresh, err)
	}
	if fresh, err := l.Add(); len(fresh) > 0 || err != nil {
		t.Errorf("nothing: %v, %v", fresh, err)
	}
}

func TestAChartersVersionWaitsForTheOneBeforeIt(t *testing.T) {
	l := newLedger(t)
	p := draw(t, `
		charter c2 after c1 by alpha,beta: 9/day
		charter c3 after c2 by alpha,beta: 8/day`)
	c2, c3 := p.notice("c2"), p.notice("c3")
	if fresh, err := l.Add(c3); len(fresh) > 0 || !errors.Is(err, ErrOrphan) || !errors.Is(l.Check(c3), notice.ErrRefused) {
		t.Errorf("version 3 first: %v, %v", fresh, err)
	}
	for _, n := range []*notice.Notice{c2, c3} {
		if err := l.Check(n); err != nil {
			t.Error(err)
		}
		if fresh, err := l.Add(n); len(fresh) != 1 || err != nil {
			t.Errorf("%v, %v", fresh, err)
		}
	}
	if n, err := l.Get(c2.CID); err != nil || n.CID != c2.CID {
		t.Errorf("Get = %v, %v", n, err)
	}
}

func TestNoticesThatArriveTogetherCostOneTransaction(t *testing.T) {
	root, keys := aConsortium(t, 50)
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"), root)
	var all []*notice.Notice
	for _, k := range keys {
		all = append(all, history(t, root, k, 1, 1)...)
	}
	before := transactions(t, l)
	l.writing.Lock()
	var wg sync.WaitGroup
	for _, n := range all {
		wg.Go(func() {
			if fresh, err := l.Add(n); len(fresh) != 1 || err != nil {
				t.Errorf("Add = %v, %v", fresh, err)
			}
		})
	}
	for waiting := 0; waiting < len(all); {
		runtime.Gosched()
		l.queue.mu.Lock()
		waiting = len(l.queue.waiting)
		l.queue.mu.Unlock()
	}
	l.writing.Unlock()
	wg.Wait()
	if n := transactions(t, l) - before; n != 1 {
		t.Errorf("%d notices took %d transactions", len(all), n)
	}
	if s := l.Standings(midnight.Add(8 * time.Hour)); len(s) != 50 || s[0].State != Active {
		t.Errorf("%d standings", len(s))
	}
}

func TestWhatTheDiskRefusesIsNotTakenIn(t *testing.T) {
	l := newLedger(t)
	p := draw(t, `
		alpha: X -> [X]
		charter c2 after c1 by alpha,beta: 9/day`)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if fresh, err := l.Add(p.arrived...); len(fresh) > 0 || err == nil || errors.Is(err, notice.ErrRefused) {
		t.Errorf("Add = %v, %v", fresh, err)
	}
	if len(l.Standings(midnight)) > 0 || l.Charter().Version != 1 || len(l.Heads()) > 0 {
		t.Error("what was not stored counts")
	}
}

// TestWhatAddAcknowledgedSurvivesACrash takes the bytes of the file after each
// call without closing it, as a crash would leave them, and opens them.
func TestWhatAddAcknowledgedSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	p := draw(t, `
		charter p2 after c1 by gamma: 7/day
		alpha: X -> Y -> >d:renew,revoke -> [X,Y]
		alpha.rec: %!X -> alpha~e
		alpha.rev: r=!Y
		d: m=[Y] -> n=!Y
		e: Z -> o=[Z]
		e: q=[]
		beta: B -> b=[B]
		gamma: beta!B
		alpha: v=beta!B
		charter c2 after c1 by alpha,beta: 9/day
		charter c3 after c2 by alpha,beta: -gamma
		charter d3 after c2 by alpha,gamma: 4/day`)
	l := open(t, path, p.charter)
	step := 0
	for chunk := range slices.Chunk(p.arrived, 2) {
		if _, err := l.Add(chunk...); err != nil {
			t.Fatal(err)
		}
		step++
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		crashed := filepath.Join(dir, fmt.Sprintf("crashed-%d.db", step))
		if err := os.WriteFile(crashed, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, crashed, p.charter)
		if got, want := look(t, c), look(t, l); !reflect.DeepEqual(got, want) {
			t.Errorf("step %d: after a crash\n%+v\nbefore\n%+v", step, got, want)
		}
		if got, want := conclude(c.consent), conclude(l.consent); !reflect.DeepEqual(got, want) {
			t.Errorf("step %d: after a crash\n%+v\nbefore\n%+v", step, got, want)
		}
		if fresh, err := c.Add(p.arrived[:min(2*step, len(p.arrived))]...); len(fresh) > 0 || err != nil {
			t.Errorf("step %d: after a crash %d notices are new, error %v", step, len(fresh), err)
		}
	}
	if len(l.Charters()) != 4 || len(l.Proposals()) != 0 {
		t.Errorf("%d versions and %d proposals", len(l.Charters()), len(l.Proposals()))
	}
}

func TestComplianceIsWhatNodesHaveStated(t *testing.T) {
	l := newLedger(t)
	x := mustAppend(t, l, "alpha", midnight, anOffer("X"))
	y := mustAppend(t, l, "alpha", midnight, anOffer("Y"))
	r := mustAppend(t, l, "alpha", midnight, &notice.Revocation{Offer: x.CID})
	drop := func(key string, at time.Time, offers ...*notice.Notice) {
		var drops []notice.Drop
		for _, o := range offers {
			drops = append(drops, notice.Drop{Revocation: r.CID, Offer: o.CID, Time: at})
		}
		slices.SortFunc(drops, notice.CompareDrop)
		mustAppend(t, l, key, at, &notice.Statement{Dropped: drops})
	}
	drop("beta.node", midnight.Add(time.Hour), x)
	drop("gamma.node", midnight.Add(2*time.Hour), x, y)
	rotation := notice.NewRotation(l.Root(), public("gamma.rec"), notice.RotateNode, public("gamma.node"), keys["g"])
	mustAppend(t, l, "gamma.rec", midnight, rotation)
	want := []Compliance{
		{Member: "alpha", Node: public("alpha.node")},
		{Member: "beta", Node: public("beta.node"), Dropped: midnight.Add(time.Hour)},
		{Member: "gamma", Node: public("g"), Dropped: midnight.Add(2 * time.Hour)},
	}
	if got := l.Compliance(x.CID); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want[1].Dropped = time.Time{} // it has dropped one of the two
	if got := l.Compliance(x.CID, y.CID); !reflect.DeepEqual(got, want) {
		t.Errorf("of two offers: got %+v, want %+v", got, want)
	}
	for i, c := range l.Compliance() {
		if c.Member != want[i].Member || !c.Dropped.IsZero() {
			t.Errorf("of nothing: %+v", c)
		}
	}
	export := func(key string, at time.Time, offer cid.Cid) {
		mustAppend(t, l, key, at, &notice.Statement{Exported: []notice.Export{{Offer: offer, Time: at}}})
	}
	export("beta.node", midnight.Add(3*time.Hour), x.CID)
	export("beta.node", midnight.Add(2*time.Hour), x.CID)
	export("g", midnight.Add(time.Hour), y.CID)
	exported := []Exported{{"beta", midnight.Add(3 * time.Hour)}, {"gamma", midnight.Add(time.Hour)}}
	if got := l.Exported(x.CID, y.CID); !reflect.DeepEqual(got, exported) {
		t.Errorf("exported %+v, want %+v", got, exported)
	}
	if got := l.Exported(x.CID); !reflect.DeepEqual(got, exported[:1]) {
		t.Errorf("of one offer, exported %+v, want %+v", got, exported[:1])
	}
	if got := l.Nodes(); len(got) != 3 || got["gamma"] != public("g") {
		t.Errorf("nodes %v", got)
	}
	if _, err := l.Append(keys["alpha.node"], midnight, anOffer("Y")); !errors.Is(err, ErrNotMember) {
		t.Errorf("an offer by a node key: %v, want ErrNotMember", err)
	}
}

func TestEnvelopesAndFrontiersSayWhatIsHeld(t *testing.T) {
	l := newLedger(t)
	p := draw(t, `
		alpha: A -> B -> C
		alpha: @A -> B2
		alpha.rev: r=%!A`)
	if _, err := l.Add(p.arrived...); err != nil {
		t.Fatal(err)
	}
	var got []cid.Cid
	for seq := uint64(0); ; {
		page, last, err := l.Envelopes(public("alpha"), seq, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, envelope := range page {
			n, err := notice.Parse(envelope)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n.CID)
		}
		seq = last
	}
	if len(got) != 4 || got[0] != p.notice("A").CID || got[3] != p.notice("C").CID {
		t.Errorf("%d envelopes", len(got))
	}
	f := l.Frontiers()
	want := notice.RestOf([]cid.Cid{p.notice("B").CID, p.notice("B2").CID, p.notice("C").CID})
	if len(f) != 1 || f[0].Key != public("alpha") || f[0].Seq != 1 || f[0].CID != p.notice("A").CID || f[0].Rest != want {
		t.Errorf("frontiers %+v", f)
	}
	for _, of := range [][]notice.PublicKey{nil, {public("alpha.rev")}} {
		if d := l.Detached(of...); len(d) != 1 || d[0].CID != p.notice("r").CID {
			t.Errorf("detached %v", d)
		}
	}
	if d := l.Detached(public("alpha")); len(d) > 0 {
		t.Errorf("detached %v of a key that has none", d)
	}
	if n, err := l.Get(p.notice("r").CID); err != nil || !n.Detached() {
		t.Errorf("Get of a detached notice: %v, %v", n, err)
	}
}
