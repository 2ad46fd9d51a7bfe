package model

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"

	"chorus/kernels"
	"chorus/model/safetensors"

	"gonum.org/v1/gonum/mat"
)

// CompressExpert writes a low-rank form of e, which was loaded from a file for the anchor a, as the blob path. Each
// matrix of an FFN becomes the public one and a difference of that rank, the nearest there is to its own: the
// truncated singular value decomposition W − W_pub ≈ U·S·Vᵀ, in two factors of the same norm, A = √S·Vᵀ and B = U·√S
// (FlexMoRE, arXiv 2602.08818, section 3). The router's rows and biases keep their bytes.
//
// The factors are stored in bfloat16. Rounding them costs a quarter of a percent of the difference's norm, whatever its
// size and rank: what is left out below full rank is far more. A blob is smaller than that of an expert in bfloat16 at
// ranks below I·H/(I+H).
//
// It is an error if rank is below 1 or above the lesser of I and H, or if a matrix of e is low-rank already: what
// was lost before would be lost twice. The end of ctx is an error, as soon as the product or decomposition in hand is
// done. Either leaves path as it was. report, which may be nil, is told matrices. The same expert gives the same bytes
// on the same kind of processor. The blob is held in memory until it is written.
func CompressExpert(ctx context.Context, path string, e *Expert, a *Anchor, rank int, report func(done, total int)) error {
	c := a.Config
	if most := min(c.HiddenSize, c.IntermediateSize); rank < 1 || rank > most {
		return fmt.Errorf("rank %d, expected 1 to %d: the matrices are %d×%d", rank, most, c.IntermediateSize, c.HiddenSize)
	}
	if e.weights == nil {
		return errors.New("an expert that was not loaded from a file cannot be compressed")
	}
	var all []safetensors.Tensor
	for l := range c.Layers {
		own, public := e.FFN[l], a.Public.FFN[l]
		for i, p := range [...][2]Projection{{own.Gate, public.Gate}, {own.Up, public.Up}, {own.Down, public.Down}} {
			name := expertTensor(l, projections[i])
			if r := p[0].Rank(); r > 0 {
				return fmt.Errorf("%s: %s is of rank %d already, expected an expert of full rank: compress the one that this was made of", e.weights.path, name, r)
			}
			d, largest := difference(p[0], p[1])
			if !(largest <= math.MaxFloat32) {
				return infinite(e.weights.tensors[name])
			}
			s, err := decompose(ctx, d, p[0].Out, p[0].In, rank)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", e.weights.path, name, err)
			}
			all = append(all,
				safetensors.FromFloat32(expertTensor(l, projections[i]+"_a"), safetensors.BF16, []int{rank, p[0].In}, s.a()),
				safetensors.FromFloat32(expertTensor(l, projections[i]+"_b"), safetensors.BF16, []int{p[0].Out, rank}, s.b()))
			if report != nil {
				report(len(projections)*l+i+1, len(projections)*c.Layers)
			}
		}
		for _, at := range []place{whole(expertTensor(l, "router"), c.HiddenSize), whole(expertBias(l), 1)} {
			t, err := e.weights.read(at)
			if err != nil {
				return err
			}
			t.Shape = at.shape
			all = append(all, t)
		}
	}
	err := (&progress{ctx: ctx}).write(path, all, expertMetadata(e.Anchor))
	runtime.KeepAlive(e) // whose memory the router's tensors are in
	return err
}

// difference returns own − public, (Out, In), and the largest magnitude in it, which is NaN if one is there.
func difference(own, public Projection) (d []float32, largest float32) {
	d, row := make([]float32, own.Out*own.In), make([]float32, own.In)
	for i := range own.Out {
		to := d[i*own.In:][:own.In]
		own.Row(to, i)
		public.Row(row, i)
		for j, v := range row {
			to[j] -= v
			largest = max(largest, float32(math.Abs(float64(to[j]))))
		}
	}
	return d, largest
}

// svd is a truncated singular value decomposition Uᵀ·S·V of a matrix, (out, in). Singular vectors are rows.
type svd struct {
	u []float32 // (r, out)
	s []float64 // (r), descending
	v []float32 // (r, in)
}

// a returns √S·V, (r, in).
func (d svd) a() []float32 {
	a, in := slices.Clone(d.v), len(d.v)/len(d.s)
	for i := range a {
		a[i] *= float32(math.Sqrt(d.s[i/in]))
	}
	return a
}

// b returns Uᵀ·√S, (out, r).
func (d svd) b() []float32 {
	b, r, out := make([]float32, len(d.u)), len(d.s), len(d.u)/len(d.s)
	for j, s := range d.s {
		root := float32(math.Sqrt(s))
		for i, v := range d.u[j*out:][:out] {
			b[i*r+j] = v * root
		}
	}
	return b
}

// exactSide is the shorter side of the largest matrix that is decomposed exactly, in a fifth of a second. At twice
// that it takes three seconds, and the sketch a tenth of one.
const exactSide = 256

var errNoSVD = errors.New("its singular value decomposition did not converge")

// decompose returns the rank largest singular values of d, (out, in), with their vectors.
func decompose(ctx context.Context, d []float32, out, in, rank int) (svd, error) {
	switch {
	case ctx.Err() != nil:
		return svd{}, ctx.Err()
	case min(out, in) <= exactSide:
		return exactSVD(d, out, in, rank)
	}
	return sketchSVD(ctx, d, out, in, rank)
}

// exactSVD is LAPACK's, in float64.
func exactSVD(d []float32, out, in, rank int) (svd, error) {
	wide := make([]float64, len(d))
	for i, v := range d {
		wide[i] = float64(v)
	}
	var f mat.SVD
	if !f.Factorize(mat.NewDense(out, in, wide), mat.SVDThin) {
		return svd{}, errNoSVD
	}
	var u, v mat.Dense
	f.UTo(&u)
	f.VTo(&v)
	return svd{columns(&u, rank), f.Values(nil)[:rank], columns(&v, rank)}, nil
}

// columns returns the first n columns of m as rows.
func columns(m *mat.Dense, n int) []float32 {
	rows, _ := m.Dims()
	c := make([]float32, 0, n*rows)
	for j := range n {
		for i := range rows {
			c = append(c, float32(m.At(i, j)))
		}
	}
	return c
}

// A sketch has a quarter more vectors than the rank, and oversampling, and is multiplied by the matrix and its
// transposed that many powers more. Each brings it nearer to the leading singular vectors, by the ratio of their values
// to the rest, squared. Of noise, which has the least to tell these apart, it leaves less than 1 % more than the best.
const (
	oversampling = 10
	powers       = 3
)

// sketchSVD is the randomised decomposition of Halko, Martinsson and Tropp (2011, doi:10.1137/090771806): algorithm
// 4.4 finds an orthonormal basis of where the matrix sends random vectors, and 5.1 decomposes what is left of it in
// that basis. The large products are kernels'. ctx is looked at between them.
func sketchSVD(ctx context.Context, d []float32, out, in, rank int) (svd, error) {
	scale := normalise(d)
	n := min(rank+rank/4+oversampling, out, in)
	m := kernels.NewMatrix(out, in, d)
	left, right := make([]float32, n*out), make([]float32, n*in)
	random := rand.New(rand.NewPCG(2011, 806))
	for i := range right {
		right[i] = float32(random.NormFloat64())
	}
	for i := range 1 + powers {
		if i > 0 {
			orthonormalise(right, n, in)
		}
		if ctx.Err() != nil {
			return svd{}, ctx.Err()
		}
		kernels.Linear(left, right, m, n)
		orthonormalise(left, n, out)
		clear(right)
		kernels.LinearGradInput(right, left, m, n)
	}
	// Now D ≈ Lᵀ·R with L and R for left and right. With R = C·Q, where Q has orthonormal rows, the decomposition of C
	// gives that of D.
	basis, core := slices.Clone(right), make([]float32, n*n)
	orthonormalise(basis, n, in)
	kernels.Linear(core, right, kernels.NewMatrix(n, in, basis), n)
	small, err := exactSVD(core, n, n, rank)
	if err != nil {
		return svd{}, err
	}
	s := svd{make([]float32, rank*out), small.s, make([]float32, rank*in)}
	kernels.LinearGradInput(s.u, small.u, kernels.NewMatrix(n, out, left), rank)
	kernels.LinearGradInput(s.v, small.v, kernels.NewMatrix(n, in, basis), rank)
	for i := range s.s {
		s.s[i] *= scale
	}
	return s, ctx.Err()
}

// normalise divides d by a power of two that leaves its largest magnitude near 1, so that sums of squares stay in
// the range of float32, and returns it.
func normalise(d []float32) float64 {
	var largest float64
	for _, v := range d {
		largest = max(largest, math.Abs(float64(v)))
	}
	_, exponent := math.Frexp(largest)
	exponent = max(exponent, -126) // the inverse must be a float32 too
	inverse := float32(math.Ldexp(1, -exponent))
	for i := range d {
		d[i] *= inverse
	}
	return math.Ldexp(1, exponent)
}

// orthonormalise makes rows vectors of n elements orthonormal, each within the span of itself and those before it:
// block Gram-Schmidt, twice, which is enough (Giraud et al. 2005, doi:10.1007/s00211-005-0615-4). A vector that is in the
// span of those before it, up to rounding, becomes zero.
func orthonormalise(v []float32, rows, n int) {
	const (
		block    = 16
		rounding = 1e-5 // of a vector's norm, more than what remains of one that depends on the others
	)
	along, norms := make([]float32, block*rows), make([]float32, block)
	for at := 0; at < rows; at += block {
		b := min(block, rows-at)
		now, before := v[at*n:][:b*n], kernels.NewMatrix(at, n, v[:at*n])
		for range 2 {
			for i := range b {
				norms[i] = norm(now[i*n:][:n])
			}
			kernels.Linear(along, now, before, b)
			for i := range b * at {
				along[i] = -along[i]
			}
			kernels.LinearGradInput(now, along, before, b)
			for i := range b {
				x := now[i*n:][:n]
				for j := range i {
					y := now[j*n:][:n]
					kernels.Axpy(x, -kernels.Dot(y, x), y)
				}
				left := norm(x)
				if left <= rounding*norms[i] {
					clear(x)
					continue
				}
				for k := range x {
					x[k] /= left
				}
			}
		}
	}
}

func norm(x []float32) float32 { return float32(math.Sqrt(float64(kernels.Dot(x, x)))) }
