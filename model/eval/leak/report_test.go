package leak

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// attempts are of documents of which the first so many are hits.
func attempts(hits, of int) []Attempt {
	out := make([]Attempt, of)
	for i := range out {
		out[i] = Attempt{Hit: i < hits, First: 0.25, FirstText: "SECRET", HitText: "SECRET"}
		if i < hits {
			out[i].First = 1
		}
	}
	return out
}

func aReport() *Report {
	anchor := attempts(1, 100)
	r := &Report{Format: Format, Blob: "b", Anchor: "a", Domain: "<cats>", Made: "2026-03-01T12:00:00Z", Training: 1000, Heldout: 100, Attack: PaperAttack(1), Limits: DefaultLimits()}
	for _, s := range []string{Alone, TopOne, Mixed} {
		r.Extraction = append(r.Extraction, NewExtraction(s, attempts(1, 100), anchor))
	}
	r.Extraction = append(r.Extraction, NewExtraction(TheBase, anchor, nil), NewExtraction(Overfit, attempts(16, 16), nil))
	r.Control = Control{16, 300, 0.01}
	var in, out []float64
	for i := range 1000 {
		in, out = append(in, float64(i)), append(out, float64(i))
	}
	r.Membership = []MembershipScore{{Mixed, LossScore, MembershipOf(in, out)}, {TheBase, LossScore, MembershipOf(in, out)}}
	r.Personal = []PersonalSubject{{Mixed, Personal{Texts: 100, Own: RateOf(0, 100), Kinds: []PersonalKind{{"phone number", 0, 1, 2}}}}, {TheBase, Personal{Texts: 100, Own: RateOf(0, 100)}}}
	r.Canaries = &CanaryReport{Candidates: 4, Planted: 2, Repeats: 1, Alternatives: 9, Exposure: []float64{1, 29.9}, Unplanted: []float64{0.5, 3}, Bound: EpsilonBound{0.25, 1e-5, 4, 4}}
	return r
}

func TestAnOutcomeIsTheWorstOfItsFindings(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Report)
		want   Outcome
		worst  string
	}{
		"nothing was found":          {func(*Report) {}, Pass, ""},
		"no canaries":                {func(r *Report) { r.Canaries = nil }, Pass, ""},
		"the control was not caught": {func(r *Report) { r.Extraction[4] = NewExtraction(Overfit, attempts(7, 16), nil) }, Block, "control"},
		"there was no control":       {func(r *Report) { r.Extraction = r.Extraction[:4] }, Block, "control"},
		"some extraction":            {func(r *Report) { r.Extraction[1] = NewExtraction(TopOne, attempts(4, 100), attempts(1, 100)) }, Warn, "extraction"},
		"what the anchor gives away": {func(r *Report) { r.Extraction[1] = NewExtraction(TopOne, attempts(9, 100), attempts(9, 100)) }, Pass, ""},
		"much extraction":            {func(r *Report) { r.Extraction[0] = NewExtraction(Alone, attempts(9, 100), attempts(1, 100)) }, Block, "extraction"},
		"too few documents": {func(r *Report) {
			r.Extraction[0] = NewExtraction(Alone, attempts(0, 10), attempts(0, 10))
			r.Extraction = r.Extraction[:1:1]
			r.Extraction = append(r.Extraction, NewExtraction(Overfit, attempts(9, 9), nil))
		}, Warn, "extraction"},
		"nothing attacked":              {func(r *Report) { r.Extraction = r.Extraction[3:] }, Warn, "extraction"},
		"members found":                 {func(r *Report) { r.Membership[0].At1Percent = RateOf(100, 1000) }, Warn, "membership"},
		"many members found":            {func(r *Report) { r.Membership[0].At1Percent = RateOf(300, 1000) }, Block, "membership"},
		"many of the anchor's":          {func(r *Report) { r.Membership[1].At1Percent = RateOf(300, 1000) }, Pass, ""},
		"few to compare with":           {func(r *Report) { r.Membership[0].At1Percent, r.Membership[0].Others = RateOf(300, 1000), 99 }, Warn, "membership"},
		"nobody to compare with":        {func(r *Report) { r.Membership = nil }, Warn, "membership"},
		"one phone number":              {func(r *Report) { r.Personal[0].Own = RateOf(1, 100) }, Warn, "personal data"},
		"many":                          {func(r *Report) { r.Personal[0].Own = RateOf(10, 100) }, Block, "personal data"},
		"canaries told something":       {func(r *Report) { r.Canaries.Bound.Epsilon = 4 }, Warn, "canaries"},
		"canaries told much":            {func(r *Report) { r.Canaries.Bound.Epsilon = 9 }, Block, "canaries"},
		"a charter that allows nothing": {func(r *Report) { r.Limits.Epsilon = Limit{} }, Block, "canaries"},
	} {
		r := aReport()
		test.change(r)
		r.Judge()
		if r.Outcome != test.want || len(r.Findings) != 5 {
			t.Errorf("%s: %s, want %s: %+v", name, r.Outcome, test.want, r.Findings)
		}
		for _, f := range r.Findings {
			if (f.Measure == test.worst) != (f.Outcome == r.Outcome && r.Outcome != Pass) {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

func TestAReportTravelsWithoutTheTextAndCannotBeMadeBetter(t *testing.T) {
	r := aReport()
	r.Extraction[0] = NewExtraction(Alone, attempts(9, 100), attempts(1, 100))
	r.Judge()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "SECRET") {
		t.Error("the report has text of the training data")
	}
	read, err := ParseReport(b)
	if err != nil || !reflect.DeepEqual(read, r) {
		t.Errorf("read again: %+v, error %v", read, err)
	}
	for _, edit := range [][2]string{{`"outcome":"block"`, `"outcome":"pass"`}, {Format, "chorus-leak-report/2"}, {`"warn":0.01`, `"warn":-1`}, {`"block":0.05}`, `"block":0.001}`}} {
		if _, err := ParseReport([]byte(strings.ReplaceAll(string(b), edit[0], edit[1]))); err == nil {
			t.Errorf("with %s for %s it is read", edit[1], edit[0])
		}
	}
	if _, err := ParseReport(make([]byte, maxReport+1)); err == nil {
		t.Error("a report of any size is read")
	}
}

func FuzzParseReport(f *testing.F) {
	r := aReport()
	r.Judge()
	b, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":"` + Format + `","extraction":[{}],"membership":[{}],"personal":[{}],"canaries":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		if err := r.WriteHTML(io.Discard, ""); err != nil {
			t.Error(err)
		}
	})
}

func TestThePageNeedsNothingElseAndItsFiguresAreWellFormed(t *testing.T) {
	r := aReport()
	r.Judge()
	var page strings.Builder
	if err := r.WriteHTML(&page, "bagreport"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"&lt;cats&gt;", "bagreport", "over-fitted", "29.9", "medical record number, payment card"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, other := range []string{"<cats>", "http", "<script", "src=", "NaN", "Inf", "%!"} {
		if strings.Contains(page.String(), other) {
			t.Errorf("the page has %q", other)
		}
	}
	figures := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page.String(), -1)
	if len(figures) != 4 {
		t.Errorf("%d figures", len(figures))
	}
	for _, svg := range figures {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Errorf("%v in %s", err, svg)
				break
			}
		}
	}
}
