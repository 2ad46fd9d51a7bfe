package simulation

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
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

func TestWorlds(t *testing.T) {
	first, last, ok := seeds(os.Getenv("CHORUS_SEEDS"))
	if !ok {
		t.Skip("CHORUS_SEEDS=1-200 runs the worlds of these seeds in this process")
	}
	for seed := first; seed <= last; seed++ {
		r := runWorld(t, seed)
		if fmt.Printf("seed %d %x %v\n", seed, r.Digest[:8], r.Counts); len(r.Breaches) > 0 {
			t.Errorf("%v\nCHORUS_SEED=%d go test ./node/simulation -run OneWorld -v shows it", r, seed)
		}
	}
}

func seeds(text string) (first, last uint64, ok bool) {
	n, err := fmt.Sscanf(text, "%d-%d", &first, &last)
	return first, last, n == 2 && err == nil
}
