package train

import (
	"path/filepath"
	"strings"
	"testing"

	"chorus/model"
)

func TestAJobTrainsWhatItNamesAndNothingElse(t *testing.T) {
	anchor := trainedAnchor(t, 3)
	expert := func(seed uint64) *model.Expert {
		j := expertJob(t, anchor, expertRecipe(2))
		j.Recipe.Seed = seed
		tensors, err := Expert(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		e, err := model.BuildExpert(anchor.Config, among(tensors))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	experts := []*model.Expert{expert(1), expert(2)}
	routers := func(_ int, name string) bool { return strings.Contains(name, "router") || isRouter(name) }
	for _, test := range []struct {
		name    string
		trained func(slot int, name string) bool
	}{
		{"everything", func(int, string) bool { return true }},
		{"the routers", routers},
		{"the last expert", func(slot int, _ string) bool { return slot == 2 }},
		{"the anchor's attention", func(slot int, name string) bool { return slot == 0 && strings.Contains(name, "self_attn") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := Job{
				Anchor: anchor, Experts: experts, Trained: test.trained,
				Texts:  []Share{{Text: walkText(5, 3, 2000), Sequences: 2}, {Text: walkText(7, 1, 2000), Sequences: 1}, {Text: walkText(11, 4, 2000), Sequences: 1}},
				Recipe: smallRecipe(4), Checkpoint: filepath.Join(t.TempDir(), "checkpoint"),
			}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := append([]model.Tensors{anchor.Tensors()}, experts[0].Tensors(), experts[1].Tensors())
			after := []model.Tensors{out.Mixture.Anchor.Tensors()}
			for _, s := range out.Mixture.Slots[1:] {
				after = append(after, (&model.Expert{Slot: *s}).Tensors())
			}
			for slot, tensors := range before {
				trained := 0
				for name, values := range tensors {
					moved := false
					now := after[slot][name]()
					for i, v := range values() {
						moved = moved || v != now[i]
					}
					if want := test.trained(slot, name); moved != want && !(want && strings.HasSuffix(name, "bias")) { // one that counts as zero does not move
						t.Errorf("slot %d: %s moves: %v", slot, name, moved)
					} else if want {
						trained++
					}
				}
				if len(out.Trained[slot]) != trained {
					t.Errorf("slot %d: %d tensors are returned, %d trained", slot, len(out.Trained[slot]), trained)
				}
			}
		})
	}
}
