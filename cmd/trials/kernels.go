package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"chorus/kernels"

	"github.com/spf13/cobra"
)

func kernelsTrial() *cobra.Command {
	r := &kernelsRun{tally: &tally{}}
	c := &cobra.Command{
		Use:   "kernels",
		Short: "Measure the arithmetic against oneDNN, llama.cpp and PyTorch",
		Long: `Measures products of matrices against oneDNN, decoding and prefill against llama.cpp, steps of training against PyTorch,
and decoding against what the memory delivers, on one core and on two. Each round measures ours and theirs in turn; a figure is
the median of the rounds, a round's is its fastest repetition, and a ratio is the median of the rounds' ratios, with the least
and the largest of them. Each measurement waits up to a second for other programs to leave the machine alone; beside the load
stands how often they did not, and of how many. Peers that are not named are not claimed against; CONTRIBUTING.md says what --peers DIR holds. It takes
an hour with all of them; --only names the parts to run.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r.ctx = c.Context()
			return r.run()
		},
	}
	c.Flags().StringVar(&r.dir, "peers", "", "folder with llama-bench, its models, and a program for products")
	c.Flags().StringVar(&r.interpreter, "python", "", "Python with torch")
	c.Flags().IntVar(&r.rounds, "rounds", 7, "rounds of each comparison")
	c.Flags().StringSliceVar(&r.only, "only", nil, "parts to run: "+strings.Join(kernelsParts, ", "))
	c.Flags().BoolVar(&r.compile, "compile", false, "also measure torch.compile, which is not claimed against")
	return c
}

// kernelsParts are what the trial measures, in order.
var kernelsParts = []string{"products", "bandwidth", "experts", "decode", "prefill", "train10M", "train100M"}

// What chorus claims, as the least ratio of their time to ours.
const (
	productClaim   = 1.0
	productF32     = 0.95 // of float32, where both stand close to the processor's peak
	decodeClaim    = 1.1
	prefillClaim   = 1.5
	trainingClaim  = 1.5
	bandwidthClaim = 0.85 // of what a pure read of the same memory reaches
	expertsClaim   = 0.97 // of the speed with 2 experts, at the same k
)

type kernelsRun struct {
	*tally
	ctx         context.Context
	dir         string // of peers; empty if there is none
	interpreter string // Python; empty if there is none
	rounds      int
	only        []string
	compile     bool

	torch    *oracle
	products *productPeer
	claims   []func()

	settled, disturbed int // see disturbance
}

func (r *kernelsRun) run() error {
	for _, part := range r.only {
		if !slices.Contains(kernelsParts, part) {
			return fmt.Errorf("--only %q, expected some of %s", part, strings.Join(kernelsParts, ", "))
		}
	}
	if r.rounds < 1 {
		return fmt.Errorf("--rounds is %d, expected at least 1", r.rounds)
	}
	tier, err := kernels.Tier()
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, kernels %s, %s; load %s\n", processor(), runtime.NumCPU(), tier, runtime.Version(), load())
	if r.interpreter != "" {
		if r.torch, err = startOracle(r.ctx, r.interpreter, kernelsPeer, "torch==2.9.1", "numpy"); err != nil {
			return err
		}
		defer r.torch.end()
		fmt.Println("PyTorch", r.torch.version)
	}
	if r.products, err = startProductPeer(r.ctx, r.dir); err != nil {
		return err
	} else if r.products != nil {
		defer r.products.end()
		fmt.Println("products:", r.products.version)
	}
	parts := map[string]func() error{
		"products": r.measureProducts, "bandwidth": r.measureBandwidth, "experts": r.measureExperts,
		"decode": r.measureDecode, "prefill": r.measurePrefill,
		"train10M": r.measureTraining(small), "train100M": r.measureTraining(big),
	}
	procs := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(procs)
	for _, part := range kernelsParts {
		if len(r.only) > 0 && !slices.Contains(r.only, part) {
			continue
		}
		if err := parts[part](); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		runtime.GC()
	}
	fmt.Println()
	for _, claim := range r.claims {
		claim()
	}
	return r.verdict()
}

// cores are the numbers of cores that everything is measured on.
func (r *kernelsRun) cores() []int {
	if runtime.NumCPU() < 2 {
		return []int{1}
	}
	return []int{1, 2}
}

// claim notes what has to hold of a ratio; all claims are printed after the tables.
func (r *kernelsRun) claim(least float64, q quotient, format string, args ...any) {
	name := fmt.Sprintf(format, args...)
	r.claims = append(r.claims, func() { r.check(q.middle >= least, "%s: %s, at least %.2f", name, q, least) })
}

// A quotient is the median over rounds of their time over ours, with the least and the largest.
type quotient struct{ middle, least, most float64 }

func (q quotient) String() string { return fmt.Sprintf("%.2f (%.2f..%.2f)", q.middle, q.least, q.most) }

// over returns theirs over ours, round by round.
func over(theirs, ours []float64) quotient {
	each := make([]float64, len(ours))
	for i, t := range ours {
		each[i] = theirs[i] / t
	}
	return quotient{median(each), slices.Min(each), slices.Max(each)}
}

// A contender repeats one piece of work for a while and returns the seconds of its fastest repetition: what else runs on
// the machine disturbs that the least.
type contender func() (float64, error)

// compete runs the contenders in turn, round after round, and returns each one's times.
func (r *kernelsRun) compete(contenders ...contender) ([][]float64, error) {
	times := make([][]float64, len(contenders))
	for range r.rounds {
		for i, c := range contenders {
			r.settle()
			if err := r.ctx.Err(); err != nil {
				return nil, err
			}
			t, err := c()
			if err != nil {
				return nil, err
			}
			times[i] = append(times[i], t)
		}
	}
	return times, nil
}

// line prints a row of a table at once, for the next may take minutes: what was measured, ours, theirs, their ratio and the rest.
func line(what, ours, theirs, ratio, rest string) {
	fmt.Printf("  %-36s %9s %9s  %-22s %s\n", what, ours, theirs, ratio, rest)
}

// processor returns the name that the system has for the processor.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOOS + "/" + runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOOS + "/" + runtime.GOARCH
}

// load returns how many tasks have wanted a core lately, ours included.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(b), " ")
	if err != nil {
		return "unknown"
	}
	return one
}

// disturbance returns the load, and how often others were not quiet before a measurement since the last call.
func (r *kernelsRun) disturbance() string {
	s := fmt.Sprintf("%s, %d of %d", load(), r.disturbed, r.settled)
	r.disturbed, r.settled = 0, 0
	return s
}

// A measurement waits until others leave this share of the cores idle for so long, but not for ever.
const (
	quietShare = 0.9
	quietFor   = 50 * time.Millisecond
	quietLimit = time.Second
)

// settle waits for others to be quiet, and counts when they were not.
func (r *kernelsRun) settle() {
	r.settled++
	for began := time.Now(); time.Since(began) < quietLimit; {
		idle, all := cpuTimes()
		time.Sleep(quietFor)
		idleLater, allLater := cpuTimes()
		if idleLater-idle >= quietShare*(allLater-all) { // also where nothing is known
			return
		}
	}
	r.disturbed++
}

// cpuTimes returns how long the cores have been idle, and how long they have been there, in ticks; nothing where the system
// does not say.
func cpuTimes() (idle, all float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(line) {
		ticks, _ := strconv.ParseFloat(field, 64) // the first is a name
		if all += ticks; i == 4 || i == 5 {       // idle, or waiting for a disk
			idle += ticks
		}
	}
	return idle, all
}

// present reports whether the file is there.
func present(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
