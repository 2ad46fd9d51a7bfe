package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestRouteAndItsGradientsMatchFloat64(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range []int{1, 7, 96} {
			const rows, e, k = 9, 5, 3
			x, dlogits := normals(r, rows*n), normals(r, rows*e)
			bias := []float32{0, -0.5, 0, -2, 0.25}
			routers := make([][]float32, e)
			for s := range routers {
				routers[s] = normals(r, n)
			}
			p, checkP := guarded(t, make([]float32, rows*e))
			lse, checkLSE := guarded(t, make([]float32, rows))
			chosen := make([]int32, rows*k)
			Route(p, lse, chosen, x, routers, bias, k, n, rows)
			checkP()
			checkLSE()
			for i := range rows {
				logits, sum := make([]float64, e), 0.0
				for s := range logits {
					logits[s] = float64(bias[s])
					for c := range n {
						logits[s] += float64(x[i*n+c]) * float64(routers[s][c])
					}
					sum += math.Exp(logits[s])
				}
				near(t, "lse", float64(lse[i]), math.Log(sum), 1e-5, 1e-5)
				for s := range logits {
					near(t, "p", float64(p[i*e+s]), math.Exp(logits[s])/sum, 1e-4, 1e-6)
				}
				want := make([]int32, k)
				TopK(want, p[i*e:][:e], k)
				if !slices.Equal(chosen[i*k:][:k], want) {
					t.Errorf("row %d of %d chose %v, want %v", i, n, chosen[i*k:][:k], want)
				}
			}

			base := normals(r, rows*n)
			dx, checkX := guarded(t, base)
			d3, check3 := guarded(t, x[:n])
			RouteGrad(dx, [][]float32{nil, nil, nil, d3, nil}, dlogits, x, routers, n, rows)
			checkX()
			check3()
			for i, v := range dx {
				want := float64(base[i])
				for s := range routers {
					want += float64(dlogits[i/n*e+s]) * float64(routers[s][i%n])
				}
				near(t, "dx", float64(v), want, 1e-5, 1e-5)
			}
			for c, v := range d3 {
				want := float64(x[c])
				for i := range rows {
					want += float64(dlogits[i*e+3]) * float64(x[i*n+c])
				}
				near(t, "drouter", float64(v), want, 1e-5, 1e-5)
			}
		}
	})
}

func TestGatherMixAndItsGradientsTouchTheRowsGiven(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range []int{1, 7, 96} {
			const all = 6
			rows := []int32{4, 0, 5}
			x, y, weight := normals(r, len(rows)*n), normals(r, all*n), normals(r, len(rows))
			got, check := guarded(t, make([]float32, len(rows)*n))
			Gather(got, y, rows, n)
			check()
			for a, row := range rows {
				if !sameBits(got[a*n:][:n], y[int(row)*n:][:n]) {
					t.Errorf("Gather of %d: row %d is not row %d", n, a, row)
				}
			}
			mixed, check := guarded(t, y)
			Mix(mixed, weight, x, rows, n)
			check()
			dx, checkX := guarded(t, x) // what is there does not matter
			dweight, checkWeight := guarded(t, weight)
			MixGrad(dx, dweight, y, weight, x, rows, n)
			checkX()
			checkWeight()
			for row := range int32(all) {
				a := slices.Index(rows, row)
				if a < 0 {
					if !sameBits(mixed[int(row)*n:][:n], y[int(row)*n:][:n]) {
						t.Errorf("Mix changes row %d", row)
					}
					continue
				}
				sum := 0.0
				for c := range n {
					yc, xc := float64(y[int(row)*n+c]), float64(x[a*n+c])
					near(t, fmt.Sprint("Mix, row ", row), float64(mixed[int(row)*n+c]), yc+float64(weight[a])*xc, exactly, exactly)
					near(t, "dx", float64(dx[a*n+c]), float64(weight[a])*yc, exactly, exactly)
					sum += yc * xc
				}
				near(t, "dweight", float64(dweight[a]), sum, 1e-5, 1e-5)
			}
		}
	})
}

func TestRoutingGivesTheSameBitsOnAnyNumberOfThreads(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		const rows, n, e, k = 500, 130, 3, 2
		x, y, dlogits := normals(r, rows*n), normals(r, rows*n), normals(r, rows*e)
		routers := [][]float32{normals(r, n), normals(r, n), normals(r, n)}
		order := make([]int32, rows)
		for i, p := range r.Perm(rows) {
			order[i] = int32(p)
		}
		var want []float32
		onThreads(func(threads int) {
			p, lse, chosen := make([]float32, rows*e), make([]float32, rows), make([]int32, rows*k)
			Route(p, lse, chosen, x, routers, make([]float32, e), k, n, rows)
			dx, d := slices.Clone(x), make([]float32, n)
			RouteGrad(dx, [][]float32{nil, d, nil}, dlogits, x, routers, n, rows)
			dlogits := slices.Clone(dlogits)
			SoftmaxGrad(dlogits, dlogits, p, lse, 0.1, e, rows)
			mixed, from, weight := slices.Clone(y), make([]float32, rows*n), make([]float32, rows)
			Mix(mixed, lse, x, order, n)
			MixGrad(from, weight, mixed, lse, x, order, n)
			got := slices.Concat(p, lse, dx, d, dlogits, mixed, from, weight)
			for _, s := range chosen {
				got = append(got, float32(s))
			}
			if want == nil {
				want = got
			}
			if !sameBits(got, want) {
				t.Errorf("%d threads differ from one", threads)
			}
		})
	})
}
