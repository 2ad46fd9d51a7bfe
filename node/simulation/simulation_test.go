package simulation

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
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
	for seed := first; seed <= last; seed++ {
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
	next := make(chan uint64)
	var wg sync.WaitGroup
	for range runtime.NumCPU() { // each process has one processor
		wg.Go(func() {
			for first := range next {
				if err := RunSeeds(t.Context(), binary, first, min(first+9, last)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	began := time.Now()
	deadline, limited := t.Deadline()
	for first := uint64(1); first <= last; first += 10 {
		if limited && time.Since(began) > time.Until(deadline) {
			t.Logf("no time for the worlds from %d on: this machine is busy", first)
			break
		}
		next <- first
	}
	close(next)
	wg.Wait()
}

func TestMutationsFollowTheCode(t *testing.T) {
	for _, m := range Mutations() {
		if _, err := m.apply("../.."); err != nil {
			t.Error(err)
		}
	}
}

// mutationSeeds is in how many worlds a safeguard that is not there must be missed.
const mutationSeeds = 200

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
			binary, err := m.Build(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for first := uint64(1); first < mutationSeeds; first += 5 {
				if err := RunSeeds(t.Context(), binary, first, first+4); err != nil {
					t.Log(FirstBreach(err))
					return
				}
			}
			t.Errorf("no world of %d breaks without it", mutationSeeds)
		})
	}
}

func seeds(text string) (first, last uint64, ok bool) {
	n, err := fmt.Sscanf(text, "%d-%d", &first, &last)
	return first, last, n == 2 && err == nil
}
