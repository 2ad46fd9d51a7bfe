package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"chorus/kernels"
)

// A productShape is the product of a matrix (m, k) of inputs with one of weights for n outputs.
type productShape struct{ m, k, n int }

var productShapes = []productShape{{512, 512, 512}, {1024, 1024, 1024}, {64, 4096, 1024}, {512, 1408, 512}}

func (s productShape) String() string { return fmt.Sprintf("%d×%d×%d", s.m, s.k, s.n) }

// gigaflops returns the arithmetic of s over seconds.
func (s productShape) gigaflops(seconds float64) float64 {
	return 2 * float64(s.m) * float64(s.k) * float64(s.n) / seconds / 1e9
}

// productWindow is how long a product is repeated in a round.
const productWindow = 150 * time.Millisecond

// productTypes are what products are measured in, by the peers' names. Inputs are prepared on both sides: the peers' are in the type
// when the time begins, and ours in [kernels.Inputs], but for float32, where both take them as they are. Ours scale
// what integers add up to, into float32; the peers' leave that to others.
var productTypes = []struct {
	name   string
	format kernels.Format
	claim  float64
}{{"f32", kernels.Float32, productF32}, {"bf16", kernels.BFloat16Dot, productClaim}, {"int8", kernels.Int8PerRow, productClaim}}

func (r *kernelsRun) measureProducts() error {
	fmt.Println("\nProducts M×K×N, weights prepared once, and inputs but for f32, GFLOP/s")
	line("", "ours", "theirs", "ratio (least..most)", "load, disturbed")
	rng := rand.New(rand.NewPCG(1, 1))
	for _, of := range productTypes {
		for _, s := range productShapes {
			m := kernels.NewMatrix(s.n, s.k, normal(rng, s.n*s.k, 1)).Pack(of.format)
			x, y := normal(rng, s.m*s.k, 1), make([]float32, s.m*s.n)
			product := func() { kernels.Linear(y, x, m, s.m) }
			if of.format != kernels.Float32 {
				var inputs kernels.Inputs
				inputs.Set(x, s.m)
				product = func() { inputs.Linear(y, m) }
			}
			for _, cores := range r.cores() {
				ours := func() (float64, error) {
					runtime.GOMAXPROCS(cores)
					return quickest(productWindow, product), nil
				}
				theirs := r.productPeer(of.name, s, cores)
				if err := r.duel(fmt.Sprintf("%s %v on %d", of.name, s, cores), of.claim, theirs, ours, s.gigaflops); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// productPeer returns what multiplies as chorus does, nil if there is none: the program among the peers, or else PyTorch.
func (r *kernelsRun) productPeer(kind string, s productShape, cores int) contender {
	switch {
	case r.products != nil:
		return func() (float64, error) { return r.products.measure(kind, s, cores) }
	case r.torch != nil:
		return r.ask("product", kind, s.m, s.k, s.n, cores, productWindow.Seconds())
	}
	return nil
}

// ask returns what puts a question to Python that is answered with seconds.
func (r *kernelsRun) ask(question ...any) contender {
	return func() (seconds float64, err error) {
		err = r.torch.ask(question, &seconds)
		return seconds, err
	}
}

// duel measures theirs, which may be nil, against ours, prints a line of their speeds, as speed has them, and notes the claim on
// their ratio, if it is not 0. A first round, in which memory is prepared, does not count.
func (r *kernelsRun) duel(name string, claim float64, theirs, ours contender, speed func(seconds float64) float64) error {
	sides := []contender{ours}
	if theirs != nil {
		sides = append(sides, theirs)
	}
	for _, side := range sides {
		if _, err := side(); err != nil {
			return err
		}
	}
	times, err := r.compete(sides...)
	if err != nil {
		return err
	}
	speeds, ratio := []string{"", ""}, ""
	for i, t := range times {
		speeds[i] = fmt.Sprintf("%.1f", speed(median(t)))
	}
	if theirs != nil {
		q := over(times[1], times[0])
		ratio = q.String()
		if claim > 0 {
			r.claim(claim, q, "%s", name)
		}
	}
	line(name, speeds[0], speeds[1], ratio, r.disturbance())
	return nil
}

// quickest repeats f for a while and returns the seconds of its fastest repetition.
func quickest(window time.Duration, f func()) float64 {
	began := time.Now()
	least := time.Duration(1<<63 - 1)
	for time.Since(began) < window {
		t := time.Now()
		f()
		least = min(least, time.Since(t))
	}
	return least.Seconds()
}

func normal(rng *rand.Rand, n int, deviation float32) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64()) * deviation
	}
	return v
}

// A productPeer is a program that multiplies, named `products` among the peers. It begins with a line that says what it is;
// then it reads lines
//
//	product TYPE M K N CORES SECONDS
//
// with TYPE f32, bf16 (both into float32) or int8 (unsigned by signed, into 32 bits), repeats the product of M×K inputs with
// K×N weights, laid out beforehand as it likes, for that long, and answers each with a line: the seconds of the fastest repetition.
type productPeer struct {
	version string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

// startProductPeer starts the program in dir; there is nil if there is none.
func startProductPeer(ctx context.Context, dir string) (*productPeer, error) {
	path := filepath.Join(dir, "products")
	if dir == "" {
		return nil, nil
	} else if ok, err := present(path); !ok {
		return nil, err
	}
	p := &productPeer{cmd: exec.CommandContext(ctx, path)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.version, err = p.line(); err != nil {
		p.end()
	}
	return p, err
}

func (p *productPeer) line() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.cmd.Path, err)
	}
	return strings.TrimSpace(line), nil
}

func (p *productPeer) measure(kind string, s productShape, cores int) (float64, error) {
	if _, err := fmt.Fprintln(p.in, "product", kind, s.m, s.k, s.n, cores, productWindow.Seconds()); err != nil {
		return 0, err
	}
	line, err := p.line()
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.ParseFloat(line, 64)
	if err != nil || seconds <= 0 {
		return 0, errors.Join(fmt.Errorf("%s: %.200q, expected seconds", p.cmd.Path, line), err)
	}
	return seconds, nil
}

func (p *productPeer) end() {
	_ = p.in.Close()
	_ = p.cmd.Wait() // it has nothing left to say
}
