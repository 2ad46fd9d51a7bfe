package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// audited leaves a file for an expert, and beside it the report of an audit that found so many of 100 documents, with a control that was caught
// or not.
func audited(t *testing.T, extracted int, caught bool) (expert string) {
	t.Helper()
	expert = filepath.Join(t.TempDir(), "felines.safetensors")
	write(t, expert, "weights")
	blob, err := blobOf(expert)
	if err != nil {
		t.Fatal(err)
	}
	attempts := make([]leak.Attempt, 100)
	for i := range extracted {
		attempts[i].Hit = true
	}
	r := leak.Report{
		Format: leak.Format, Blob: blob.String(), Limits: leak.DefaultLimits(), Control: leak.Control{Documents: 1, Steps: 30},
		Extraction: []leak.Extraction{leak.NewExtraction(leak.Mixed, attempts, nil), leak.NewExtraction(leak.Overfit, []leak.Attempt{{Hit: caught}}, nil)},
	}
	r.Judge()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	write(t, auditPath(expert), string(b))
	return expert
}

func TestAReportIsHeldToTheLimitsThatHoldWhenItsExpertIsPublished(t *testing.T) {
	strict, lax := leak.DefaultLimits(), leak.DefaultLimits()
	strict.Extraction = leak.Limit{Warn: 0, Block: 0.02}
	lax.Extraction = leak.Limit{Warn: 0.5, Block: 0.5}
	for name, test := range map[string]struct {
		extracted int
		caught    bool
		limits    leak.Limits
		refusal   string // "" for none
		hint      string
	}{
		"the same limits": {3, true, leak.DefaultLimits(), "", ""},
		"stricter ones": {3, true, strict, "the limits of audits that hold now say not to publish felines, which was audited under others: " +
			"extraction: 3 of 100 documents from the mixture, beyond the anchor's, of which 2 % are allowed", "--accept-leaks"},
		"stricter ones that it keeps": {1, true, strict, "", ""},
		"laxer ones":                  {6, true, lax, "the audit of felines says not to publish it: extraction: 6 of 100 documents from the mixture, beyond the anchor's, of which 5 % are allowed", "--accept-leaks"},
		"a control that was not caught": {0, false, leak.DefaultLimits(), "the audit of felines says not to publish it: control: the attack catches 0 of the 1 documents",
			"train the control for longer: `chorus audit felines --data felines=PATH --control-steps 60`"},
	} {
		expert := audited(t, test.extracted, test.caught)
		digest, err := leakReport(expert, "felines", test.limits, false)
		if test.refusal == "" {
			if err != nil || !digest.Defined() {
				t.Errorf("%s: digest %v, error %v", name, digest, err)
			}
		} else if err == nil || !strings.HasPrefix(err.Error(), test.refusal) {
			t.Errorf("%s: error %v, want %s", name, err, test.refusal)
		} else if _, hints := explain(err); !strings.Contains(strings.Join(hints, "\n"), test.hint) {
			t.Errorf("%s: hints %q, want %s", name, hints, test.hint)
		}
		if accepted, err := leakReport(expert, "felines", test.limits, true); err != nil || !accepted.Defined() || test.refusal == "" && accepted != digest {
			t.Errorf("%s: accepted, digest %v, error %v", name, accepted, err)
		}
	}
}
