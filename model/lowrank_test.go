package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"chorus/kernels"
	"chorus/model/safetensors"
)

// A compressible is an anchor, and the blob of an expert that was trained from its public FFN.
type compressible struct {
	anchor *Anchor
	path   string
	expert *Expert
}

// newCompressible returns one of random weights. The differences have singular values that decay.
func newCompressible(t *testing.T, c Config) compressible {
	t.Helper()
	public, src := exactTensors(6)
	a, err := BuildAnchor(c, src)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 8))
	tensors := expertTensors(t, c)
	for i, x := range tensors {
		var l int
		var name string
		if _, err := fmt.Sscanf(x.Name, "layers.%d.%s", &l, &name); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "router") {
			continue
		}
		in := x.Shape[1]
		tensors[i].Values = append([]float32(nil), find(t, *public, fmt.Sprintf("model.layers.%d.mlp.experts.0.%s", l, name)).Values...)
		for j := range tensors[i].Values {
			tensors[i].Values[j] += float32(r.NormFloat64() / math.Sqrt(float64(in)) / (1 + float64(j%in)/4))
		}
	}
	f := compressible{anchor: a, path: filepath.Join(t.TempDir(), "expert")}
	if err := SaveExpert(f.path, "bafyanchor", tensors); err != nil {
		t.Fatal(err)
	}
	f.expert = f.load(t, f.path)
	return f
}

func (f compressible) load(t *testing.T, path string) *Expert {
	t.Helper()
	e, err := LoadExpert(path, f.anchor)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (f compressible) compress(t *testing.T, rank int) *Expert {
	t.Helper()
	path := filepath.Join(t.TempDir(), "low")
	if err := CompressExpert(t.Context(), path, f.expert, f.anchor, rank, nil); err != nil {
		t.Fatal(err)
	}
	return f.load(t, path)
}

// each calls visit for every matrix of an expert and the public one in its place.
func (f compressible) each(e *Expert, visit func(name string, own, public Projection)) {
	for l, own := range e.FFN {
		public := f.anchor.Public.FFN[l]
		visit(fmt.Sprintf("layers.%d.gate_proj", l), own.Gate, public.Gate)
		visit(fmt.Sprintf("layers.%d.up_proj", l), own.Up, public.Up)
		visit(fmt.Sprintf("layers.%d.down_proj", l), own.Down, public.Down)
	}
}

// product returns a projection as the one matrix that it comes to.
func product(p Projection) []float32 {
	v := make([]float32, p.Out*p.In)
	for i := range p.Out {
		p.Row(v[i*p.In:], i)
	}
	return v
}

// materialised returns e with every matrix multiplied out.
func materialised(t *testing.T, e *Expert) *Expert {
	t.Helper()
	out := &Expert{Slot: Slot{Router: e.Router, Bias: e.Bias}}
	whole := func(p Projection) Projection {
		return Projection{Matrix: kernels.NewMatrix(p.Out, p.In, product(p))}
	}
	for _, f := range e.FFN {
		out.FFN = append(out.FFN, FFN{whole(f.Gate), whole(f.Up), whole(f.Down)})
	}
	return out
}

// frobenius returns the norm of a − b; nil is zeros.
func frobenius(a, b []float32) float64 {
	var sum float64
	for i, v := range a {
		d := float64(v)
		if b != nil {
			d -= float64(b[i])
		}
		sum += d * d
	}
	return math.Sqrt(sum)
}

// approximation returns what a decomposition comes to, (out, in).
func approximation(d svd) []float32 {
	a, b, r := d.a(), d.b(), len(d.s)
	out, in := len(b)/r, len(a)/r
	sum, row := make([]float32, 0, out*in), make([]float64, in)
	for i := range out {
		clear(row)
		for j, f := range b[i*r:][:r] {
			for k, v := range a[j*in:][:in] {
				row[k] += float64(f) * float64(v)
			}
		}
		for _, v := range row {
			sum = append(sum, float32(v))
		}
	}
	return sum
}

func TestASketchLeavesHardlyMoreThanTheBestOfItsRank(t *testing.T) {
	const (
		excess   = 1.01
		rounding = 2e-6 // of the matrix's norm: all products are float32
	)
	r := rand.New(rand.NewPCG(4, 4))
	noise := func(int, int) float64 { return r.NormFloat64() }
	for _, test := range []struct {
		name string
		at   func(i, j int) float64
	}{
		{"noise", noise},
		{"noise of tiny numbers", func(i, j int) float64 { return 1e-36 * noise(i, j) }},
		{"noise of huge numbers", func(i, j int) float64 { return 1e36 * noise(i, j) }},
		{"a slow decay", func(i, j int) float64 { return noise(i, j) / float64(1+j) }},
		{"a steep decay", func(i, j int) float64 { return noise(i, j) * math.Pow(2, -float64(j)) }},
		{"a rank below what is asked for", func(i, j int) float64 { return float64(i%3) + float64(j%5) }},
		{"a few rows", func(i, j int) float64 {
			if i%40 > 0 {
				return 0
			}
			return noise(i, j)
		}},
		{"one number", func(i, j int) float64 { return float64(max(0, 1-i-j)) }},
		{"zeros", func(int, int) float64 { return 0 }},
	} {
		for _, shape := range [][2]int{{170, 90}, {60, 140}} {
			out, in := shape[0], shape[1]
			d := make([]float32, out*in)
			for i := range d {
				d[i] = float32(test.at(i/in, i%in))
			}
			for _, rank := range []int{1, 7, 40, 60} {
				best, err := exactSVD(d, out, in, rank)
				if err != nil {
					t.Fatal(err)
				}
				got, err := sketchSVD(t.Context(), append([]float32(nil), d...), out, in, rank)
				if err != nil {
					t.Fatal(err)
				}
				whole := frobenius(d, nil)
				left, least := frobenius(d, approximation(got)), frobenius(d, approximation(best))
				if !(left <= excess*least+rounding*whole) {
					t.Errorf("%s, %d×%d, rank %d: leaves %.3g of %.3g, the best leaves %.3g", test.name, out, in, rank, left, whole, least)
				}
				for j := range rank - 1 {
					if got.s[j] < got.s[j+1] {
						t.Errorf("%s, rank %d: singular value %d is %g, the next %g", test.name, rank, j, got.s[j], got.s[j+1])
					}
				}
			}
		}
	}
}

func TestOrthonormaliseKeepsTheSpanAndDropsWhatDepends(t *testing.T) {
	const n, rows = 50, 40
	r := rand.New(rand.NewPCG(1, 2))
	v := make([]float32, rows*n)
	for i := range rows * n {
		v[i] = float32(r.NormFloat64())
	}
	depends := map[int]bool{3: true, 20: true, 39: true} // the second two on vectors of an earlier block
	for i := range depends {
		for k := range n {
			v[i*n+k] = 2*v[k] - v[n+k]
		}
	}
	before := append([]float32(nil), v...)
	orthonormalise(v, rows, n)
	row := func(v []float32, i int) []float32 { return v[i*n:][:n] }
	for i := range rows {
		left := append([]float32(nil), row(before, i)...)
		for j := range i + 1 {
			want := 0.0
			if i == j && !depends[i] {
				want = 1
			}
			if got := float64(kernels.Dot(row(v, i), row(v, j))); math.Abs(got-want) > 1e-6 {
				t.Errorf("the product of vectors %d and %d is %g, want %g", i, j, got, want)
			}
			kernels.Axpy(left, -kernels.Dot(row(v, j), left), row(v, j))
		}
		if got := norm(left) / norm(row(before, i)); got > 1e-5 {
			t.Errorf("%g of vector %d is outside the span", got, i)
		}
	}
}

func TestACompressedExpertIsTheNearestOfItsRank(t *testing.T) {
	const (
		excess   = 1.01  // see powers
		rounding = 0.003 // of the factors to bfloat16
	)
	small, large := testConfig(31, 16, 12, 2, 4, 2), testConfig(31, 264, 300, 1, 4, 2)
	if large.HiddenSize <= exactSide {
		t.Fatal("no matrix is sketched")
	}
	for _, c := range []Config{small, large} {
		f := newCompressible(t, c)
		full := make(map[string][]float32)
		f.each(f.expert, func(name string, own, _ Projection) { full[name] = product(own) })
		for _, rank := range []int{1, 5, min(c.HiddenSize, c.IntermediateSize)} {
			f.each(f.compress(t, rank), func(name string, own, public Projection) {
				if own.Rank() != rank {
					t.Fatalf("%s has rank %d, want %d", name, own.Rank(), rank)
				}
				d, _ := difference(Projection{Matrix: kernels.NewMatrix(own.Out, own.In, full[name])}, public)
				best, err := exactSVD(d, own.Out, own.In, rank)
				if err != nil {
					t.Fatal(err)
				}
				left, least, whole := frobenius(full[name], product(own)), frobenius(d, approximation(best)), frobenius(d, nil)
				if !(left <= excess*least+rounding*whole) {
					t.Errorf("%s, rank %d of %d×%d: leaves %.4g of %.4g, the best leaves %.4g", name, rank, own.Out, own.In, left, whole, least)
				}
				if rank == min(own.Out, own.In) {
					t.Logf("%s: at full rank %.3g of the difference is lost", name, left/whole)
				}
			})
		}
	}
}

func TestCompressingKeepsTheRouterAndWhoseExpertItIs(t *testing.T) {
	f := newCompressible(t, testConfig(31, 16, 12, 2, 4, 2))
	e := f.compress(t, 3)
	if e.Anchor != "bafyanchor" || e.Metadata[metaFormat] != formatName {
		t.Errorf("anchor %q, metadata %q", e.Anchor, e.Metadata)
	}
	for name, x := range e.weights.tensors {
		if x.DType != safetensors.BF16 {
			t.Errorf("%s is stored as %s", name, x.DType)
		}
	}
	for l := range e.FFN {
		sameBits(t, "the router's row", e.Router[l], f.expert.Router[l])
		sameBits(t, "the bias", e.Bias[l], f.expert.Bias[l])
	}
}

func TestTheSameExpertGivesTheSameBlob(t *testing.T) {
	f := newCompressible(t, testConfig(31, 264, 300, 1, 4, 2))
	dir := t.TempDir()
	var blobs [2][]byte
	for i := range blobs {
		path := filepath.Join(dir, fmt.Sprint(i))
		calls := 0
		err := CompressExpert(t.Context(), path, f.expert, f.anchor, 4, func(done, total int) {
			if calls++; done != calls || total != 3 {
				t.Errorf("call %d reports %d of %d", calls, done, total)
			}
		})
		if err != nil || calls != 3 {
			t.Fatalf("%d matrices, %v", calls, err)
		}
		if blobs[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(blobs[0], blobs[1]) {
		t.Error("compressing twice gives different bytes")
	}
}

func TestALowRankExpertComputesWhatItsProductWould(t *testing.T) {
	const tolerance = 1e-5 // of the largest logit: the same sums in another order
	c := testConfig(31, 16, 12, 2, 4, 2)
	f := newCompressible(t, c)
	full, low, lower := f.expert, f.compress(t, 4), f.compress(t, 1)
	for name, experts := range map[string][]*Expert{
		"alone": {low}, "of two ranks": {low, lower}, "beside one of full rank": {lower, full, low},
	} {
		var whole []*Expert
		for _, e := range experts {
			whole = append(whole, materialised(t, e))
		}
		want := logitsOf(NewMixture(f.anchor, whole...))
		var largest, apart float64
		hold := func(got []float32, from int) {
			for i, v := range got {
				largest = max(largest, math.Abs(float64(want[from+i])))
				apart = max(apart, math.Abs(float64(v-want[from+i])))
			}
		}
		m := NewMixture(f.anchor, experts...)
		hold(logitsOf(m), 0)
		s := m.NewSequence()
		for i, id := range randomIDs(rand.New(rand.NewPCG(3, 4)), 12, 31) { // as logitsOf has them
			logits, err := s.Extend([]int32{id})
			if err != nil {
				t.Fatal(err)
			}
			hold(logits, i*c.VocabSize)
		}
		if !(apart < tolerance*largest) {
			t.Errorf("%s: the logits are %.3g of the largest off", name, apart/largest)
		}
	}
}

func TestALowRankExpertIsNeverMultipliedOut(t *testing.T) {
	c := testConfig(31, 64, 16384, 1, 4, 2)
	_, src := exactTensors(6)
	a, err := BuildAnchor(c, src)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "blob")
	if err := SaveExpert(path, "", lowRankTensors(t, c, 2)); err != nil {
		t.Fatal(err)
	}
	e, err := LoadExpert(path, a)
	if err != nil {
		t.Fatal(err)
	}
	m := NewMixture(a, e)
	m.Anchor.Rope() // which is made once, for all positions
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var p Pass
	m.Forward(&p, []int32{1}, 1, 1)
	runtime.ReadMemStats(&after)
	matrix := uint64(4 * c.HiddenSize * c.IntermediateSize)
	if got := after.TotalAlloc - before.TotalAlloc; got > matrix/2 {
		t.Errorf("one token takes %d bytes of memory, a matrix multiplied out %d", got, matrix)
	}
}

// lowRankTensors returns those of a blob of low rank.
func lowRankTensors(t testing.TB, c Config, rank int) []Tensor {
	t.Helper()
	_, src := exactTensors(7)
	var all []Tensor
	add := func(name string, shape ...int) {
		v, err := src(name, shape...)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Tensor{name, shape, v})
	}
	for l := range c.Layers {
		for _, name := range projections {
			out, in := c.matrixShape(name)
			add(expertTensor(l, name+"_a"), rank, in)
			add(expertTensor(l, name+"_b"), out, rank)
		}
		add(expertTensor(l, "router"), c.HiddenSize)
		add(expertBias(l), 1)
	}
	return all
}

func TestLoadExpertRefusesFactorsThatDoNotFit(t *testing.T) {
	c := testConfig(31, 16, 12, 2, 4, 2)
	const a, b, whole = "layers.1.up_proj_a.weight", "layers.1.up_proj_b.weight", "layers.1.up_proj.weight"
	remove := func(name string) func([]Tensor) []Tensor {
		return func(all []Tensor) (kept []Tensor) {
			for _, x := range all {
				if x.Name != name {
					kept = append(kept, x)
				}
			}
			return kept
		}
	}
	replace := func(name string, shape ...int) func([]Tensor) []Tensor {
		return func(all []Tensor) []Tensor {
			return append(remove(name)(all), Tensor{name, shape, make([]float32, size(shape))})
		}
	}
	both := func(f, g func([]Tensor) []Tensor) func([]Tensor) []Tensor {
		return func(all []Tensor) []Tensor { return g(f(all)) }
	}
	for _, test := range []struct {
		name, says string
		change     func([]Tensor) []Tensor
	}{
		{"the first alone", fmt.Sprintf("tensor %q is missing", b), remove(b)},
		{"the second alone", fmt.Sprintf("tensor %q is missing", a), remove(a)},
		{"neither", fmt.Sprintf("tensor %q is missing", whole), both(remove(a), remove(b))},
		{"the matrix too", fmt.Sprintf("tensor %q is not expected", whole), replace(whole, 12, 16)},
		{"rank 0", fmt.Sprintf("tensor %q has shape [0 16], expected [1 16]", a), both(replace(a, 0, 16), replace(b, 12, 0))},
		{"a rank above the matrix's", fmt.Sprintf("tensor %q has shape [13 16], expected [12 16]", a), both(replace(a, 13, 16), replace(b, 12, 13))},
		{"two ranks", fmt.Sprintf("tensor %q has shape [12 4], expected [12 3]", b), replace(b, 12, 4)},
		{"no rank", fmt.Sprintf("tensor %q has shape [48], expected [1 16]", a), replace(a, 48)},
		{"a transposed factor", fmt.Sprintf("tensor %q has shape [16 3], expected [12 16]", a), replace(a, 16, 3)},
		{"another width", fmt.Sprintf("tensor %q has shape [3 15], expected [3 16]", a), replace(a, 3, 15)},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "blob")
			if err := SaveExpert(path, "bafyanchor", test.change(lowRankTensors(t, c, 3))); err != nil {
				t.Fatal(err)
			}
			e, err := openExpert(path, c)
			refusedFor(t, e != nil, err, path, test.says)
		})
	}
}

func TestCompressExpertRefusesAndWritesNothing(t *testing.T) {
	c := testConfig(31, 16, 12, 2, 4, 2)
	f := newCompressible(t, c)
	low := f.compress(t, 3)
	built, err := BuildExpert(c, func(_ string, shape ...int) ([]float32, error) { return make([]float32, size(shape)), nil })
	if err != nil {
		t.Fatal(err)
	}
	damaged := newCompressible(t, c)
	tensors := expertTensors(t, c)
	find(t, tensors, "layers.1.down_proj.weight").Values[5] = float32(math.NaN())
	if err := SaveExpert(damaged.path, "", tensors); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, test := range []struct {
		name, says string
		ctx        context.Context
		e          *Expert
		rank       int
	}{
		{"rank 0", "rank 0, expected 1 to 12", t.Context(), f.expert, 0},
		{"a negative rank", "rank -1, expected 1 to 12", t.Context(), f.expert, -1},
		{"a rank above the matrices'", "rank 13, expected 1 to 12", t.Context(), f.expert, 13},
		{"an expert of low rank", "layers.0.gate_proj.weight is of rank 3 already", t.Context(), low, 2},
		{"an expert in memory alone", "was not loaded from a file", t.Context(), built, 2},
		{"no number", `tensor "layers.1.down_proj.weight" holds NaN`, t.Context(), damaged.load(t, damaged.path), 2},
		{"the end of the context", context.Canceled.Error(), ended, f.expert, 2},
	} {
		dir := t.TempDir()
		err := CompressExpert(test.ctx, filepath.Join(dir, "low"), test.e, f.anchor, test.rank, nil)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.says)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: the folder holds %v, %v", test.name, entries, err)
		}
	}
}

func TestCompressingEndsWithItsContext(t *testing.T) {
	for _, c := range []Config{testConfig(31, 16, 12, 2, 4, 2), testConfig(31, 264, 300, 2, 4, 2)} {
		f := newCompressible(t, c)
		path := filepath.Join(t.TempDir(), "low")
		ctx, end := context.WithCancel(t.Context())
		matrices := 0
		err := CompressExpert(ctx, path, f.expert, f.anchor, 2, func(done, _ int) {
			matrices = done
			end()
		})
		if !errors.Is(err, context.Canceled) || matrices != 1 {
			t.Errorf("%v after %d matrices, want the context's end after one", err, matrices)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the blob is there: %v", err)
		}
	}
}

// ending is a context that ends when it is asked for the third time.
type ending struct {
	context.Context
	asked int
}

func (c *ending) Err() error {
	if c.asked++; c.asked > 2 {
		return context.Canceled
	}
	return nil
}

func TestASketchEndsBetweenItsProducts(t *testing.T) {
	_, err := sketchSVD(&ending{Context: t.Context()}, make([]float32, 30*20), 30, 20, 4)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v from a context that ended under way", err)
	}
}
