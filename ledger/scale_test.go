package ledger

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"chorus/ledger/notice"
)

// seeded returns the private key number n.
func seeded(n int) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint64(seed, uint64(n)+1)
	return ed25519.NewKeyFromSeed(seed)
}

// aConsortium returns the charter of many members, of whom the first decides,
// and their publishing keys.
func aConsortium(t testing.TB, members int) (*notice.Notice, []ed25519.PrivateKey) {
	t.Helper()
	c := &notice.Charter{
		Name: "scale", Version: 1, Anchor: blob("anchor"), Stewards: []string{"m0000"}, Quorum: 1,
		LeaseSeconds: 24 * 3600, LeaseCeilingSeconds: 48 * 3600, MaxBlobBytes: 1 << 30, OffersPerDay: 100,
	}
	var publishing []ed25519.PrivateKey
	for i := range members {
		publishing = append(publishing, seeded(3*i))
		c.Members = append(c.Members, notice.Member{
			Name: fmt.Sprintf("m%04d", i), Publishing: notice.PublicKeyOf(seeded(3 * i)), Node: notice.PublicKeyOf(seeded(3*i + 1)), Recovery: notice.PublicKeyOf(seeded(3*i + 2)),
		})
	}
	n, err := notice.Sign(c, publishing[0])
	if err != nil {
		t.Fatal(err)
	}
	return n, publishing
}

// history returns a feed of offers and then leases of them all, eight hours apart.
func history(t testing.TB, root *notice.Notice, key ed25519.PrivateKey, offers, leases int) []*notice.Notice {
	t.Helper()
	var all []*notice.Notice
	l := &notice.Lease{}
	for i := range offers + leases {
		h := notice.Header{Charter: root.CID, Key: notice.PublicKeyOf(key), Seq: uint64(i) + 1, Time: midnight.Add(time.Duration(i) * 8 * time.Hour)}
		if i > 0 {
			h.Prev = all[i-1].CID
		}
		var b notice.Body
		if i < offers {
			o := anOffer(strconv.Itoa(i))
			o.Header, b = h, o
		} else {
			l.Header, l.NotAfter, b = h, h.Time.Add(24*time.Hour), l
		}
		n, err := notice.Sign(b, key)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
		if i < offers {
			l.Offers = append(l.Offers, n.CID)
			slices.SortFunc(l.Offers, notice.CompareCID)
		}
	}
	return all
}

// BenchmarkStandings: 1,000 members and 10,000 notices.
func BenchmarkStandings(b *testing.B) {
	root, keys := aConsortium(b, 1000)
	l := open(b, filepath.Join(b.TempDir(), "ledger.db"), root)
	var last *notice.Notice
	for _, k := range keys {
		all := history(b, root, k, 9, 1)
		if _, err := l.Add(all...); err != nil {
			b.Fatal(err)
		}
		last = all[9]
	}
	now := last.Header().Time
	b.Run("asked", func(b *testing.B) {
		for b.Loop() {
			if s := l.Standings(now); len(s) != 9000 || s[0].State != Active {
				b.Fatal(len(s))
			}
		}
	})
	b.Run("after a lease", func(b *testing.B) {
		for b.Loop() {
			l.mu.Lock()
			l.consent.touched["m0500"] = true
			l.consent.refresh()
			l.mu.Unlock()
			l.Standings(now)
		}
	})
	b.Run("after a charter", func(b *testing.B) {
		for b.Loop() {
			l.mu.Lock()
			l.consent.all = true
			l.consent.refresh()
			l.mu.Unlock()
		}
	})
}

// BenchmarkAddTogether: what a notice costs where many callers bring one each.
func BenchmarkAddTogether(b *testing.B) {
	root, keys := aConsortium(b, 200)
	l := open(b, filepath.Join(b.TempDir(), "ledger.db"), root)
	feeds := make([][]*notice.Notice, len(keys))
	for b.Loop() {
		b.StopTimer()
		for i, k := range keys {
			o := anOffer("X")
			o.Header = notice.Header{Charter: root.CID, Key: notice.PublicKeyOf(k), Seq: uint64(len(feeds[i])) + 1, Time: midnight}
			if n := len(feeds[i]); n > 0 {
				o.Prev = feeds[i][n-1].CID
			}
			n, err := notice.Sign(o, k)
			if err != nil {
				b.Fatal(err)
			}
			feeds[i] = append(feeds[i], n)
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for _, f := range feeds {
			wg.Go(func() {
				if _, err := l.Add(f[len(f)-1]); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(keys)), "µs/notice")
}

// BenchmarkTenYears writes and opens the leases of 100 members over ten years:
// CHORUS_LEASES is how many of each (10950 are all).
func BenchmarkTenYears(b *testing.B) {
	leases, err := strconv.Atoi(os.Getenv("CHORUS_LEASES"))
	if err != nil {
		b.Skip("set CHORUS_LEASES to the leases of each of 100 members; 10950 are those of ten years")
	}
	root, keys := aConsortium(b, 100)
	path := filepath.Join(b.TempDir(), "ledger.db")
	l := open(b, path, root)
	var adding time.Duration
	for _, k := range keys {
		all := history(b, root, k, 1, leases)
		began := time.Now()
		for page := range slices.Chunk(all, 1000) {
			if _, err := l.Add(page...); err != nil {
				b.Fatal(err)
			}
		}
		adding += time.Since(began)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		l = open(b, path, root)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if len(l.Heads()) != 100 || len(l.Missing()) != 0 {
			b.Fatal("something is missing")
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(adding.Seconds(), "s/adding")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB/heap")
	if info, err := os.Stat(path); err == nil {
		b.ReportMetric(float64(info.Size())/1e6, "MB/file")
	}
}
