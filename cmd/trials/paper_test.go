package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// paperCorpus writes domains of words that are each one's own, and returns their folder.
func paperCorpus(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		r := rand.New(rand.NewPCG(5, uint64(i)))
		for _, part := range []string{"train", "valid", "heldout"} {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			for range 12 {
				var words []string
				for range 200 {
					words = append(words, fmt.Sprintf("%s%d", name, r.IntN(9)))
				}
				if err := json.NewEncoder(z).Encode(map[string]string{"text": strings.Join(words, " ")}); err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name, part+".jsonl.gz")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func tinyPaper(t *testing.T, dir string) *paper {
	return &paper{tally: &tally{}, ctx: t.Context(), dir: dir, rows: []string{"all"}, scale: paperScale{
		hidden: 16, intermediate: 24, layers: 2, heads: 2, vocab: 300, sequences: 4, publicSequences: 1, splicedSequences: 1, length: 32, anchorSteps: 3, expertSteps: 20,
		anchorRate: 1e-2, wholeRate: 1e-2, expertRate: 1e-2, unrestrictedRate: 1e-2, tuneRate: 1e-2, trainTokens: 4000, evalBytes: 6000, ranks: []int{2},
	}}
}

func TestASecondTableCostsNothingAndIsTheSame(t *testing.T) {
	data, dir := paperCorpus(t, publicDomain, "alpha", codeDomain), t.TempDir()
	table := func() string {
		p := tinyPaper(t, dir)
		if err := p.run(data, "small", 1, 1); err != nil && p.broken == 0 {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "small", "table.csv"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := table()
	for _, k := range paperRowKinds {
		if k.make != nil && !strings.Contains(first, k.sample()) {
			t.Errorf("no row %q in the table", k.sample())
		}
	}
	for _, plot := range []string{"domains", "opt-out", "active", "added"} {
		if _, err := os.Stat(filepath.Join(dir, "small", plot+".png")); err != nil {
			t.Error(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "runs", "*.checkpoint"))
	if err != nil || len(left) > 0 {
		t.Errorf("checkpoints %v are left, %v", left, err)
	}
	before, err := os.ReadDir(filepath.Join(dir, "runs"))
	if err != nil {
		t.Fatal(err)
	}
	if second := table(); second != first {
		t.Error("the second table is another")
	}
	if after, err := os.ReadDir(filepath.Join(dir, "runs")); err != nil || len(after) != len(before) {
		t.Errorf("%d files of trainings, %d after the first table, %v", len(after), len(before), err)
	}
	again := tinyPaper(t, t.TempDir())
	again.rows = []string{"flexolmo"}
	if err := again.run(data, "small", 1, 1); err != nil && again.broken == 0 {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(again.dir, "small", "table.csv"))
	if err != nil {
		t.Fatal(err)
	}
	bits := func(table string) (lines []string) {
		for line := range strings.Lines(table) {
			if cells := strings.Split(line, ","); cells[1] == rowFlexOlmo {
				lines = append(lines, strings.Join(cells[:8], ","))
			}
		}
		return lines
	}
	if got, want := bits(string(b)), bits(first); fmt.Sprint(got) != fmt.Sprint(want) || len(want) == 0 {
		t.Errorf("the same seed elsewhere gives %v, want %v", got, want)
	}
}

func TestOfAllRowsThoseBeyondTheCoreAreTheFirstSeeds(t *testing.T) {
	p := tinyPaper(t, t.TempDir())
	if err := p.run(paperCorpus(t, publicDomain, "alpha", codeDomain), "small", 4, 2); err != nil && p.broken == 0 {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(p.dir, "small", "table.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]bool{"4," + rowFlexOlmo: true, "5," + rowFlexOlmo: true, "4," + rowNoBias: true, "5," + rowNoBias: false} {
		if got := strings.Contains(string(b), "\n"+line+","); got != want {
			t.Errorf("a line that begins with %q: %v, want %v", line, got, want)
		}
	}
}

func TestAClaimComparesTheSeedsThatHaveBoth(t *testing.T) {
	row := func(name string, bits float64) paperRow {
		return paperRow{Name: name, Scores: map[string]paperScore{"a": {Bits: bits}, mixedSet: {Bits: bits}}}
	}
	table := func(first, second float64) *paperTable {
		return &paperTable{texts: []string{"a", mixedSet}, seeds: [][]paperRow{
			{row(rowAnchor, 4), row(rowFlexOlmo, first), row(rowNoBias, 2.5)},
			{row(rowAnchor, 4), row(rowFlexOlmo, second)},
		}}
	}
	for _, test := range []struct {
		first, second float64
		held          int
	}{{2, 3.9, 1}, {3, 0.1, 0}} {
		p := &paper{tally: &tally{}}
		if p.claims(table(test.first, test.second), nil); p.held != test.held || p.held+p.broken != 1 {
			t.Errorf("%v of the first seed and %v of the second beside 2.5 of the first: %d claims held and %d broken, want %d held", test.first, test.second, p.held, p.broken, test.held)
		}
	}
}

// sample is a name that a kind of row has in the table.
func (k paperRowKind) sample() string {
	return map[string]string{
		"anchor": rowAnchor, "control": "anchor, continued", "experts": "expert alone: alpha", "soup": "soup, weighted", "btm": rowBTM, "routing": "prompt routing",
		"btx": "BTX", "flexolmo": rowFlexOlmo, "pairs": "public and alpha", "ffn": "FFNs alone, BTM", "no-bias": rowNoBias, "random-rows": rowRandomRows, "no-coordination": rowNoCoordination,
		"no-guide": rowNoGuide, "no-splicing": rowNoSplicing, "no-topic": rowNoTopic, "no-renaming": rowNoRenaming,
		"paper": rowPaper, "tuned": "router tuning", "rank": "rank 2", "unrestricted": rowUnrestricted, "unrestricted-2x": "unrestricted 2×",
	}[k.name]
}

func TestReductionIsAgainstTheSameSeedsAnchor(t *testing.T) {
	row := func(name string, a, mixed float64) paperRow {
		return paperRow{Name: name, Scores: map[string]paperScore{"a": {Bits: a}, mixedSet: {Bits: mixed}}}
	}
	table := &paperTable{texts: []string{"a", mixedSet}, seeds: [][]paperRow{
		{row(rowAnchor, 3, 4), row("x", 2, 2)},
		{row(rowAnchor, 4, 4), row("x", 2, 4)},
	}}
	for _, test := range []struct {
		texts []string
		want  float64
	}{{[]string{"a"}, 1.5}, {[]string{mixedSet}, 1}, {table.texts, 1.25}} {
		if got := table.reduction("x", test.texts); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("on %v: %v, want %v", test.texts, got, test.want)
		}
	}
}
