package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chorus/model/train"
)

func TestAReportIsWrittenWhateverItsCurve(t *testing.T) {
	for name, curve := range map[string][]train.Point{
		"no curve":    nil,
		"one point":   {{Step: 1, Loss: 3, BitsPerByte: 2}},
		"no bytes":    {{Step: 0}, {Step: 5, Loss: 3}},
		"both curves": {{Step: 0, Valid: 5}, {Step: 5, Loss: 3, BitsPerByte: 2, Valid: 4}, {Step: 10, Loss: 2, BitsPerByte: 1.5}},
	} {
		r := newReport("cardiology", train.ExpertRecipe(1))
		r.History = train.History{Steps: 10, Seconds: 2, Curve: curve}
		dir := filepath.Join(t.TempDir(), "x.report")
		if err := r.write(dir); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "report.json"))
		if err != nil {
			t.Fatal(err)
		}
		var got trainingReport
		if err := json.Unmarshal(b, &got); err != nil || len(got.Curve) != len(curve) || got.TokensPerSecond != 10*8*64/2 || got.Recipe != r.Recipe {
			t.Errorf("%s: report.json holds %s, %v", name, b, err)
		}
		for _, key := range regexp.MustCompile(`"([^"]*)": `).FindAllSubmatch(b, -1) {
			if !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).Match(key[1]) {
				t.Errorf("%s: report.json has a key %q", name, key[1])
			}
		}
		svg, err := os.ReadFile(filepath.Join(dir, "curve.svg"))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: curve.svg: %v", name, err)
			}
		}
		if both := strings.Contains(string(svg), "other text"); both != (name == "both curves") {
			t.Errorf("%s: the text to choose by is drawn: %v", name, both)
		}
	}
}
