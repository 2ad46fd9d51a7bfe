package train

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"chorus/kernels"
	"chorus/model"
)

func enc(s string) []int32 { o := make([]int32, len(s)); for i := range s { o[i] = int32(s[i]) }; return o }

func evalBPB(m *model.Mixture, t *Tokens, T int) float64 {
	var p model.Pass
	n := (len(t.IDs) - 1) / T
	n = min(n, 40000/T)
	lp := make([]float32, T)
	var sum float64
	by := 0
	for w := 0; w < n; w++ {
		ids, tg := t.IDs[w*T:w*T+T], t.IDs[w*T+1:w*T+T+1]
		m.Forward(&p, ids, 1, T)
		kernels.LogProb(lp, p.Logits, tg, m.Anchor.Config.VocabSize, T)
		for _, v := range lp { sum -= float64(v) }
		by += T
	}
	return sum / math.Ln2 / float64(by) * float64(len(t.IDs)) / float64(t.Bytes)
}

func TestExp(t *testing.T) {
	if os.Getenv("EXP") == "" { t.Skip() }
	root := runtime.GOROOT()
	load := func(suf []string, paths ...string) (*Tokens, *Tokens) {
		for i := range paths { paths[i] = root + "/" + paths[i] }
		c, err := ReadCorpus(3<<20, suf, paths...)
		if err != nil { t.Fatal(err) }
		a, b := Encode(c.Train, enc, 256), Encode(c.Heldout, enc, 256)
		fmt.Println(paths, len(c.Train), len(c.Heldout), a.Bytes, b.Bytes)
		return a, b
	}
	type dom struct{ tr, ho *Tokens }
	var ds [4]dom
	ds[0].tr, ds[0].ho = load([]string{".html", ".md", ".txt"}, "doc", "api", "src/cmd/compile", "src/runtime/HACKING.md")
	ds[1].tr, ds[1].ho = load(nil, "src/testdata/Isaac.Newton-Opticks.txt")
	ds[2].tr, ds[2].ho = load([]string{".go"}, "src/net", "src/encoding", "src/go", "src/image")
	ds[3].tr, ds[3].ho = load([]string{".s"}, "src")
	T := 128
	cfg := model.Config{VocabSize: 260, HiddenSize: 96, IntermediateSize: 256, Layers: 3, Heads: 3, KVHeads: 3, MaxPositions: 512, RMSNormEps: 1e-6, Experts: 1, TopK: 1}
	cfg.Rope.Theta = 10000
	rng := rand.New(rand.NewPCG(1, 2))
	var params []*parameter
	src := func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape { n *= s }
		w := make([]float32, n)
		p := &parameter{name: name, shape: shape, w: w, g: make([]float32, n), m: make([]float32, n), v: make([]float32, n)}
		switch {
		case strings.Contains(name, "norm"):
			for i := range w { w[i] = 1 }
		case strings.Contains(name, "mlp.gate.") : return w, nil
		default:
			std := 1 / math.Sqrt(float64(shape[1]))
			if strings.Contains(name, "embed") { std = 0.5 } else { p.decay = true }
			for i := range w { w[i] = float32(rng.NormFloat64() * std) }
		}
		params = append(params, p)
		return w, nil
	}
	a, err := model.BuildAnchor(cfg, src)
	if err != nil { t.Fatal(err) }
	ctx := context.Background()
	rep := func(name string) func(Progress) {
		var avg float64
		return func(p Progress) { avg = avg*0.95 + p.Loss*0.05; if p.Step == 1 { avg = p.Loss }; if p.Step%100 == 0 { fmt.Printf("%s %d loss %.3f %.0f tok/s\n", name, p.Step, avg/math.Ln2, p.TokensPerSecond) } }
	}
	st := time.Now()
	r := &run{recipe: Recipe{Steps: 400, WarmUp: 20, Sequences: 8, Length: T, LR: 5e-3, Beta1: .9, Beta2: .95, WeightDecay: 0.1, Clip: 1, ZLoss: 1e-5, Seed: 1}, mixture: model.NewMixture(a), params: params, batches: newBatcher(ds[0].tr, T, 1)}
	if err := r.train(ctx, func() error { return nil }, rep("anchor")); err != nil { t.Fatal(err) }
	fmt.Println("anchor time", time.Since(st))
	row := func(n string, m *model.Mixture) { fmt.Printf("%-28s", n); s := 0.0; for i, d := range ds { v := evalBPB(m, d.ho, T); if i > 0 { s += v }; fmt.Printf(" %.3f", v) }; fmt.Printf("  mean %.3f\n", s/3) }
	anchorM := model.NewMixture(a)
	row("anchor", anchorM)
	// mean hidden per layer
	mean := func(tk *Tokens) [][]float32 {
		var p model.Pass
		out := make([][]float32, cfg.Layers)
		for l := range out { out[l] = make([]float32, cfg.HiddenSize) }
		b := newBatcher(tk, T, 7)
		ids, tg := make([]int32, 8*T), make([]int32, 8*T)
		for s := 0; s < 6; s++ { b.fill(ids, tg, s, 8); anchorM.Forward(&p, ids, 8, T)
			for l := range out { for r := 0; r < 8*T; r++ { kernels.Axpy(out[l], 1.0/float32(48*T), p.Layers[l].Hidden[r*cfg.HiddenSize:][:cfg.HiddenSize]) } } }
		return out
	}
	norm := func(v []float32) float64 { return math.Sqrt(kernels.SumSquares(v)) }
	pub := mean(ds[0].tr)
	scale := float32(1.0)
	for l := range pub { fmt.Println("pub norm", norm(pub[l])); n := float32(norm(pub[l])); for i := range pub[l] { a.Public.Router[l][i] = pub[l][i] / n * scale } }
	var experts []*model.Expert
	st = time.Now()
	for d := 1; d < 4; d++ {
		mu := mean(ds[d].tr)
		for l := range mu { fmt.Printf("norm %.2f cos %.3f\n", norm(mu[l]), float64(kernels.Dot(mu[l], pub[l]))/norm(mu[l])/norm(pub[l])) }
		params = nil
		ex, _ := model.BuildExpert(cfg, func(name string, shape ...int) ([]float32, error) {
			n := 1
			for _, s := range shape { n *= s }
			p := &parameter{name: name, shape: shape, w: make([]float32, n), g: make([]float32, n), m: make([]float32, n), v: make([]float32, n)}
			params = append(params, p)
			return p.w, nil
		})
		for l := range ex.FFN {
			for i := 0; i < cfg.IntermediateSize; i++ { copy(ex.FFN[l].Gate.Row(i), a.Public.FFN[l].Gate.Row(i)); copy(ex.FFN[l].Up.Row(i), a.Public.FFN[l].Up.Row(i)) }
			for i := 0; i < cfg.HiddenSize; i++ { copy(ex.FFN[l].Down.Row(i), a.Public.FFN[l].Down.Row(i)) }
			n := float32(norm(mu[l])); for i := range mu[l] { ex.Router[l][i] = mu[l][i] / n * scale }
		}
		r := &run{recipe: Recipe{Steps: 250, WarmUp: 20, Sequences: 8, Length: T, LR: 5e-3, Beta1: .9, Beta2: .95, Clip: 1, ZLoss: 1e-5, RouterZLoss: 1e-3, Seed: 1}, mixture: model.NewMixture(a, ex), params: params, batches: newBatcher(ds[d].tr, T, 1)}
		if err := r.train(ctx, func() error { return nil }, rep(fmt.Sprint("expert", d))); err != nil { t.Fatal(err) }
		experts = append(experts, ex)
		fmt.Println("bias", ex.Bias)
		row("pair", model.NewMixture(a, ex))
		alone := *a2(a, ex)
		row("alone", model.NewMixture(&alone))
	}
	fmt.Println("experts time", time.Since(st))
	mix := model.NewMixture(a, experts...)
	row("mixture", mix)
	row("average", model.NewMixture(average(a, experts)))
	for l := 0; l < cfg.Layers; l++ {
	 fmt.Print("layer ", l)
	 for _, d := range ds { var p model.Pass; mix.Forward(&p, d.ho.IDs[:1024], 8, T); var w [4]float64; for r := 0; r < 1024; r++ { for e := 0; e < 4; e++ { w[e] += float64(p.Layers[l].P[r*4+e]) / 1024 } }; fmt.Printf(" [%.2f %.2f %.2f %.2f]", w[0], w[1], w[2], w[3]) }
	 fmt.Println()
	}
}

func a2(a *model.Anchor, e *model.Expert) *model.Anchor { b := &model.Anchor{Config: a.Config, Embed: a.Embed, Layers: a.Layers, Norm: a.Norm, Head: a.Head}; b.Public = model.Slot{FFN: e.FFN, Router: a.Public.Router}; return b }

func average(a *model.Anchor, es []*model.Expert) *model.Anchor {
	b := &model.Anchor{Config: a.Config, Embed: a.Embed, Layers: a.Layers, Norm: a.Norm, Head: a.Head}
	b.Public.Router = a.Public.Router
	for l := range a.Public.FFN {
		av := func(f func(f model.FFN) kernels.Matrix) kernels.Matrix {
			m0 := f(a.Public.FFN[l])
			w := make([]float32, m0.Out*m0.In)
			k := float32(1) / float32(1+len(es))
			for i := 0; i < m0.Out; i++ { kernels.Axpy(w[i*m0.In:(i+1)*m0.In], k, m0.Row(i)); for _, e := range es { kernels.Axpy(w[i*m0.In:(i+1)*m0.In], k, f(e.FFN[l]).Row(i)) } }
			return kernels.NewMatrix(m0.Out, m0.In, w)
		}
		b.Public.FFN = append(b.Public.FFN, model.FFN{Gate: av(func(f model.FFN) kernels.Matrix { return f.Gate }), Up: av(func(f model.FFN) kernels.Matrix { return f.Up }), Down: av(func(f model.FFN) kernels.Matrix { return f.Down })})
	}
	return b
}
