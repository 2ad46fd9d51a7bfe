package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	charter := aCharter(t, "pictures")
	l := open(t, path, charter)
	if _, err := Open(path, charter); !errors.Is(err, ErrInUse) {
		t.Errorf("opening twice: %v, want ErrInUse", err)
	}
	mustAppend(t, l, "alpha", midnight, anOffer("X"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, aCharter(t, "another")); !errors.Is(err, ErrWrongCharter) || errors.Is(err, ErrDamaged) {
		t.Errorf("with another charter: %v, want ErrWrongCharter", err)
	}
	unsigned, err := notice.Sign(l.Charter(), keys["beta"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, unsigned); !errors.Is(err, notice.ErrSignature) {
		t.Errorf("with a charter that its steward has not signed: %v, want ErrSignature", err)
	}
	if _, err := Open(filepath.Join(dir, "none", "ledger.db"), charter); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no folder: %v, want ErrNotExist", err)
	}
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 8192)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(garbage, charter); !errors.Is(err, ErrDamaged) {
		t.Errorf("garbage: %v, want ErrDamaged", err)
	}
	if l, err := Open(path, charter); err != nil {
		t.Errorf("after all that: %v", err)
	} else if len(l.Heads()) != 1 || l.Close() != nil {
		t.Error("after all that, the notice is gone")
	}
}

func TestADamagedFileIsRefusedOrShowsOnlyWhatWasSigned(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a file that is mapped cannot be removed: run it on another system")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	charter := aCharter(t, "pictures")
	l := open(t, path, charter)
	known := map[cid.Cid]bool{l.Root(): true}
	for i := range 40 {
		known[mustAppend(t, l, "alpha", midnight, anOffer(fmt.Sprint(i))).CID] = true
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	const trials = 300
	for i := range trials {
		bad := bytes.Clone(good)
		if i%4 == 0 {
			bad = bad[:r.IntN(len(bad))]
		}
		for range 1 + r.IntN(64) {
			if len(bad) > 0 {
				bad[r.IntN(len(bad))] ^= byte(1 + r.IntN(255))
			}
		}
		name := filepath.Join(dir, fmt.Sprintf("bad-%d.db", i))
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(name, charter)
		if err != nil {
			refused++
			continue
		}
		for n, err := range l.Notices() {
			if err == nil && !known[n.CID] {
				t.Errorf("trial %d: an unknown notice %s", i, n.CID)
			}
		}
		if err := l.Close(); err != nil {
			t.Errorf("trial %d: %v", i, err)
		}
	}
	if refused == 0 || refused == trials {
		t.Errorf("%d of %d damaged files were refused: the damage does not test anything", refused, trials)
	}
}

func TestOpenRefusesAFileThatSomebodyEdited(t *testing.T) {
	charter := aCharter(t, "pictures")
	p := draw(t, "alpha: X -> Y")
	x, y := p.arrived[0], p.arrived[1]
	stranger := anOffer("Z")
	stranger.Header = notice.Header{Charter: charter.CID, Key: notice.PublicKeyOf(keys["mallory"]), Seq: 1, Time: midnight}
	z, err := notice.Sign(stranger, keys["mallory"])
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		edit func(tx *bbolt.Tx) error
	}{
		{"one notice in place of another", func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketBodies).Put(linkKey(x), y.Envelope)
		}},
		{"a changed notice", func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketBodies).Put(linkKey(x), bytes.Replace(x.Envelope, []byte("A"), []byte("B"), 1))
		}},
		{"a notice that has no body", func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketBodies).Delete(linkKey(x))
		}},
		{"a link that says nothing", func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketLinks).Put(linkKey(x), nil)
		}},
		{"a charter that nobody signed", func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketCharters).Put([]byte("x"), y.Envelope)
		}},
		{"a stranger's notice", func(tx *bbolt.Tx) error {
			return errors.Join(tx.Bucket(bucketLinks).Put(linkKey(z), linkValue(z)), tx.Bucket(bucketBodies).Put(linkKey(z), z.Envelope))
		}},
		{"a changed charter", func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketMeta).Put(keyCharter, []byte("{}"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			l := open(t, path, charter)
			for _, n := range p.arrived {
				if _, err := l.Add(n); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(l.db.Update(tt.edit), l.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path, charter); !errors.Is(err, ErrDamaged) {
				t.Errorf("Open = %v, want ErrDamaged", err)
			}
		})
	}
}

func TestALinkThatIsMissingFromTheFileShowsAndIsTakenInAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	p := draw(t, "alpha: X -> Y -> [X,Y]")
	l := open(t, path, p.charter)
	if _, err := l.Add(p.arrived...); err != nil {
		t.Fatal(err)
	}
	err := l.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketLinks).Delete(linkKey(p.notice("X"))) })
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, p.charter)
	if s := l.Standings(midnight.Add(3 * time.Hour)); len(s) != 1 || s[0].State != Lapsed || len(l.Missing()) != 1 {
		t.Errorf("standings %+v, missing %v", s, l.Missing())
	}
	if fresh, err := l.Add(p.arrived...); len(fresh) != 1 || err != nil {
		t.Errorf("Add = %v, %v", fresh, err)
	}
	if s := l.Standings(midnight.Add(3 * time.Hour)); len(s) != 2 || s[0].State != Active {
		t.Errorf("standings %+v", s)
	}
}
