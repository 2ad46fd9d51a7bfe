package train

import (
	"testing"

	"chorus/model"
)

// BenchmarkStep is the speed of training at the sizes that users get: a step of AnchorRecipe on
// AnchorConfig, and one of ExpertRecipe beside that anchor.
func BenchmarkStep(b *testing.B) {
	config := AnchorConfig(Vocabulary, 0)
	text := &Tokens{IDs: make([]int32, 1<<16)}
	for i := range text.IDs {
		text.IDs[i] = int32(i * 97 % Vocabulary)
	}
	source := func(r *run) model.Source {
		return func(name string, shape ...int) ([]float32, error) {
			p := newParameter(name, shape)
			for i := range p.w {
				p.w[i] = float32(i%7-3) / 32
			}
			r.params = append(r.params, p)
			return p.w, nil
		}
	}
	steps := func(b *testing.B, r *run) {
		for b.Loop() {
			r.once()
		}
		b.ReportMetric(float64(b.N*len(r.ids))/b.Elapsed().Seconds(), "tokens/s")
		b.ReportMetric(0, "ns/op")
	}
	r := &run{recipe: AnchorRecipe(1), batches: newBatcher(text, AnchorRecipe(1).Length, 1)}
	anchor, err := model.BuildAnchor(config, source(r))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("anchor", func(b *testing.B) {
		r.mixture = model.NewMixture(anchor)
		r.begin()
		steps(b, r)
	})
	b.Run("expert", func(b *testing.B) {
		recipe := ExpertRecipe(1)
		r := &run{recipe: recipe, batches: newBatcher(text, recipe.Length, 1), public: newBatcher(text, recipe.Length, 2)}
		expert, err := model.BuildExpert(config, source(r))
		if err != nil {
			b.Fatal(err)
		}
		r.mixture = model.NewMixture(anchor, expert)
		r.begin()
		steps(b, r)
	})
}
