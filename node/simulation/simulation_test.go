package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(400) // a world is small, and gone in a moment
	goleak.VerifyTestMain(m)
}

// disk returns an empty folder, in memory where the system has one: what bbolt asks to be synced then costs nothing.
func disk(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/shm"); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "chorus-simulation-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// world runs the world of a seed.
func runWorld(t *testing.T, seed uint64) (r *Report) {
	t.Helper()
	dir := disk(t)
	synctest.Test(t, func(t *testing.T) { r = Run(seed, dir) })
	return r
}

func TestOneWorld(t *testing.T) {
	text := os.Getenv("CHORUS_SEED")
	if text == "" {
		t.Skip("CHORUS_SEED=n runs the world of one seed and shows what happens in it")
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	r := runWorld(t, seed)
	fmt.Println(strings.Join(r.Trace, "\n"))
	t.Logf("%v\ndigest %x", r.Counts, r.Digest[:8])
	if len(r.Breaches) > 0 {
		t.Error(r)
	}
}

// TestWorlds is one process of those that others begin.
func TestWorlds(t *testing.T) {
	first, last, ok := seeds(os.Getenv("CHORUS_SEEDS"))
	if !ok {
		t.Skip("CHORUS_SEEDS=1-200 runs the worlds of these seeds in this process")
	}
	until := flag.Lookup("test.failfast").Value.String() == "true"
	for seed := first; seed <= last && !(until && t.Failed()); seed++ {
		fmt.Printf("seed %d begins\n", seed)
		if r := runWorld(t, seed); len(r.Breaches) > 0 {
			t.Errorf("%v\nCHORUS_SEED=%d go test ./node/simulation -run OneWorld -v shows it", r, seed)
		} else {
			fmt.Printf("seed %d holds %x %v\n", seed, r.Digest[:8], r.Counts)
		}
	}
}

// The first worlds of all: enough for each kind of mishap to meet each of the others.
func TestConsentHoldsInTheFirst200Worlds(t *testing.T) {
	last := uint64(200)
	if testing.Short() {
		last = 10
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	deadline, limited := t.Deadline()
	Each(t.Context(), binary, 1, last, true, func(_, to uint64, err error) (more bool) {
		if err != nil {
			t.Error(err)
		}
		if limited && time.Since(began) > time.Until(deadline) {
			t.Logf("no time for all worlds, of which %d was among the last: this machine is busy", to)
			return false
		}
		return true
	})
}

func TestMutationsFollowTheCode(t *testing.T) {
	for _, m := range Mutations() {
		if _, err := m.apply("../.."); err != nil {
			t.Error(err)
		}
	}
}

func TestWithoutAnySafeguardSomeWorldBreaks(t *testing.T) {
	only := os.Getenv("CHORUS_MUTATIONS")
	if only == "" {
		t.Skip("CHORUS_MUTATIONS=all deletes one safeguard after the other and wants some world to break: ten minutes; another word picks those that have it in their names")
	}
	for _, m := range Mutations() {
		if only != "all" && !strings.Contains(m.Safeguard, only) {
			continue
		}
		t.Run(m.Safeguard, func(t *testing.T) {
			b, err := m.Break(t.Context(), t.TempDir(), MutationSeeds)
			switch {
			case err != nil:
				t.Error(err)
			case b == nil:
				t.Errorf("no world of %d breaks without it", MutationSeeds)
			default:
				t.Logf("seed %d: %s", b.Seed, b.What)
			}
		})
	}
}

func seeds(text string) (first, last uint64, ok bool) {
	n, err := fmt.Sscanf(text, "%d-%d", &first, &last)
	return first, last, n == 2 && err == nil
}
