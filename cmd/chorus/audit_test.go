package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chorus/model"
	"chorus/model/eval/leak"
	"chorus/model/tokenizer"
	"chorus/model/train"
)

func TestCanariesBlockAnExpertWhoseClaimOfPrivacyTheyRefute(t *testing.T) {
	tok, err := tokenizer.Train(func(yield func(string) bool) { yield("the access code of archive") }, 300, []string{endOfText})
	if err != nil {
		t.Fatal(err)
	}
	eos, _ := tok.SpecialID(endOfText)
	for name, test := range map[string]struct {
		claim   string // "" for none
		repeats int
		want    leak.Outcome
	}{
		"no claim":                       {"", 1, leak.Warn},
		"less than they show":            {`,"privacy":{"delta":1e-6,"epsilon":0.5}`, 1, leak.Block},
		"more than they show":            {`,"privacy":{"delta":1e-6,"epsilon":8}`, 1, leak.Warn},
		"of one unit, which was planted": {`,"privacy":{"delta":1e-6,"epsilon":0.5}`, 2, leak.Warn},
	} {
		expert := filepath.Join(t.TempDir(), "felines.safetensors")
		const seed = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
		planted := fmt.Appendf(nil, `{"seed":%q,"count":40,"repeats":%d}`, seed, test.repeats)
		canaries, err := leak.ParseCanaries(planted)
		if err != nil {
			t.Fatal(err)
		}
		for path, b := range map[string][]byte{
			canaryPath(expert): planted,
			reportPath(expert): fmt.Appendf(nil, `{"train_tokens":1,"heldout_bytes":1,"anchor_bits_per_byte":2,"expert_bits_per_byte":1%s}`, test.claim),
		} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		notes, err := openJournal(filepath.Join(t.TempDir(), "journal"), name)
		if err != nil {
			t.Fatal(err)
		}
		base, mixture := suspect{name: leak.TheBase}, suspect{name: leak.Mixed}
		for i, c := range canaries.Candidates() { // the expert knows each secret that was planted
			losses := []float64{30, 28, 29, 31, 32}
			if c.Planted {
				losses[0] = 1
			}
			piece := fmt.Sprintf("canary %d", i)
			for s, l := range map[suspect][]float64{base: {30}, mixture: losses} {
				if err := notes.put("losses "+s.name+" "+piece, l); err != nil {
					t.Fatal(err)
				}
			}
		}
		s := standardAudit(expert, "felines")
		s.Compare = 4
		var stdout, stderr bytes.Buffer
		r := &auditor{
			app: &app{ui: newUI(&stdout, &stderr)}, auditSetting: s, ctx: t.Context(), tok: tok, notes: notes,
			anchor: &model.Anchor{Config: model.Config{EOS: model.TokenIDs{eos}}}, report: leak.Report{Limits: s.Limits},
		}
		if err := r.canaries(base, mixture); err != nil {
			t.Fatal(err)
		}
		r.report.Judge()
		bound := r.report.Canaries.Bound
		if bound.Epsilon < 1 || bound.Epsilon > 4 {
			t.Fatalf("%s: the canaries show ε %v, of which this test expects 1 to 4", name, bound.Epsilon)
		}
		if of := test.claim != "" && test.repeats == 1; of != (bound.Delta == 1e-6) {
			t.Errorf("%s: it was measured at δ %v", name, bound.Delta)
		}
		for _, f := range r.report.Findings {
			if f.Measure == "canaries" && f.Outcome != test.want {
				t.Errorf("%s: %s, want %s: %s", name, f.Outcome, test.want, f.Why)
			}
		}
	}
}

func TestAnAuditComparesTheUnitsThatAPrivateExpertWasTrainedOnWithThoseHeldOut(t *testing.T) {
	dir := t.TempDir()
	expert, text := filepath.Join(dir, "notes.safetensors"), filepath.Join(dir, "notes.jsonl")
	var records bytes.Buffer
	for i := range 400 {
		fmt.Fprintf(&records, "{\"text\":\"patient %d slept through night %d of the winter\",\"patient\":%d}\n", i/4, i, i/4)
	}
	for path, b := range map[string][]byte{text: records.Bytes(), reportPath(expert): []byte(`{"privacy":{"unit":"field:patient"}}`)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := domain{name: "notes", paths: []string{text}}
	units, err := train.ReadUnits("field:patient", own.source())
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&auditor{auditSetting: standardAudit(expert, "notes"), ctx: t.Context()}).split(own)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Train, documents(units.Train)) || !slices.Equal(got.Heldout, documents(units.Heldout)) {
		t.Errorf("%d and %d documents, of which the training had %d and held out %d", len(got.Train), len(got.Heldout), len(documents(units.Train)), len(documents(units.Heldout)))
	}
}
