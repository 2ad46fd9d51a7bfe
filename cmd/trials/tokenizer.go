package main

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"chorus/model/tokenizer"
	"chorus/model/train"

	"github.com/spf13/cobra"
)

//go:embed tokenizer.py
var tokenizerScript string

// What the trial measures with.
const (
	trialText       = 48 << 20 // bytes to train on, at most
	trialVocabulary = 32000
	realStrings     = 50000
	fuzzedStrings   = 30000
	speedText       = 4 << 20 // bytes of each round
	speedRounds     = 9
	hostileLength   = 100_000 // characters, and ten times that
	hostileGrowth   = 25      // n log n makes 12 of 10, and leaving the caches about twice that
)

// Special tokens that begin the trained vocabularies, and added ones that are ordinary text to everyone else.
var (
	trialSpecials = []string{"<|endoftext|>", "<|pad|>", "<|im_start|>"}
	trialAdded    = [][2]any{{"[LINK]", false}, {"[NAME]", true}, {"[LINKS]", false}}
)

func tokenizerTrial() *cobra.Command {
	var python, data string
	var files []string
	c := &cobra.Command{
		Use:   "tokenizer",
		Short: "Compare training, encoding and speed with Hugging Face's tokenizers",
		Long: `Compares the vocabulary and the merges that are learned from the same text, then the ids and the decoded text of
80,000 strings, real and made up, under tokenizers that either side trained and under those given; then the
speed, on one core. It needs Python with the package tokenizers, and takes about ten minutes.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runTokenizer(c.Context(), python, data, files) },
	}
	c.Flags().StringVar(&python, "python", "python3", "the Python that has the package tokenizers")
	c.Flags().StringVar(&data, "data", "", "folder with real text; default: the Go distribution's")
	c.Flags().StringArrayVar(&files, "tokenizer", nil, "a tokenizer.json to compare under as well (repeatable)")
	return c
}

// A tokenizerRun is one run of the trial.
type tokenizerRun struct {
	*tally
	ctx    context.Context
	oracle *oracle
	dir    string // for files of its own
	texts  []string
	spare  []string // that was held out of texts
}

func runTokenizer(ctx context.Context, python, data string, files []string) error {
	runtime.GOMAXPROCS(1)
	o, err := startOracle(ctx, python, tokenizerScript, "tokenizers")
	if err != nil {
		return err
	}
	defer o.end()
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	corpus, err := trialCorpus(data)
	if err != nil {
		return err
	}
	r := &tokenizerRun{&tally{}, ctx, o, dir, corpus.Train, corpus.Heldout}
	fmt.Printf("against tokenizers %s; one core, %s\n", o.version, runtime.GOARCH)
	named, err := r.train(python)
	if err != nil {
		return err
	}
	var given []namedTokenizer
	for _, f := range files {
		given = append(given, namedTokenizer{filepath.Base(filepath.Dir(f)) + "/" + filepath.Base(f), f})
	}
	named = append(named, given...)
	if err := r.compare(named); err != nil {
		return err
	}
	if err := r.hostile(given); err != nil {
		return err
	}
	if err := r.speed(named); err != nil {
		return err
	}
	return r.verdict()
}

// trialCorpus reads the folder, or the text that every machine with Go has.
func trialCorpus(data string) (*train.Corpus, error) {
	var suffixes []string
	if data == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return nil, fmt.Errorf("go env GOROOT: %w: name a folder with text with --data", err)
		}
		data = strings.TrimSpace(string(out))
		suffixes = []string{".go", ".md", ".txt", ".html", ".s", ".c", ".mod", ".js", ".css"}
	}
	return train.ReadCorpus(trialText, suffixes, data)
}

// A namedTokenizer is a tokenizer.json and what to call it.
type namedTokenizer struct{ name, path string }

// compare encodes and decodes all strings under each tokenizer, on both sides.
func (r *tokenizerRun) compare(named []namedTokenizer) error {
	rng := rand.New(rand.NewPCG(1, 2))
	var inside []string
	for _, of := range named {
		f, err := readTokenizer(of.path)
		if err != nil {
			return err
		}
		for _, a := range f.AddedTokens[:min(16, len(f.AddedTokens))] {
			inside = append(inside, a.Content)
		}
	}
	slices.Sort(inside)
	inside = slices.Compact(inside)
	all := append(windows(rng, r.texts, realStrings), fuzzed(rng, inside, fuzzedStrings)...)
	for i := 0; i < realStrings; i += 20 { // a special token inside real text
		at := strings.LastIndexByte(all[i], ' ') + 1
		all[i] = all[i][:at] + inside[i/20%len(inside)] + all[i][at:]
	}
	rows := [][]string{{"", "vocabulary", "strings", "with special tokens", "ids", "differences"}}
	total := make([]int, len(named))
	for n, of := range named {
		tok, err := tokenizer.Load(of.path)
		if err != nil {
			return err
		}
		if err := r.oracle.ask(map[string]any{"do": "load", "path": of.path}, nil); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "comparing under %s\n", of.name)
		ids, special := 0, 0
		for batch := range slices.Chunk(all, 2000) {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			differing, with, count, err := r.compareBatch(tok, batch)
			if err != nil {
				return err
			}
			for _, d := range differing[:min(3, len(differing))] {
				fmt.Printf("  %s: %s\n", of.name, d)
			}
			total[n] += len(differing)
			ids, special = ids+count, special+with
		}
		rows = append(rows, []string{of.name, fmt.Sprint(tok.VocabSize()), fmt.Sprint(len(all)), fmt.Sprint(special), fmt.Sprint(ids), fmt.Sprint(total[n])})
	}
	fmt.Printf("\nIds with and without special tokens, and what they decode to: %d strings of real text, %d made up\n", realStrings, fuzzedStrings)
	table(rows)
	for n, of := range named {
		r.check(total[n] == 0, "%s: every string has the same ids and decodes to the same text", of.name)
	}
	return nil
}

// compareBatch returns a line for each string that is not the same, how many strings have special tokens, and
// how many ids there were.
func (r *tokenizerRun) compareBatch(tok *tokenizer.Tokenizer, batch []string) (differing []string, special, count int, err error) {
	var their struct {
		IDs     [][]int        `json:"ids"`
		Special map[int][]int  `json:"special"`
		Decoded map[int]string `json:"decoded"`
	}
	if err := r.oracle.ask(map[string]any{"do": "encode", "texts": batch}, &their); err != nil {
		return nil, 0, 0, err
	}
	for i, text := range batch {
		plain, read := their.IDs[i], their.IDs[i]
		if ids, ok := their.Special[i]; ok {
			read = ids
			special++
		}
		decoded, ok := their.Decoded[i]
		if !ok {
			decoded = text
		}
		for _, way := range []struct {
			name      string
			ours, ids []int
		}{{"text", tok.Encode(text), plain}, {"special", tok.EncodeSpecial(text), read}} {
			count += len(way.ids)
			switch got := tok.Decode(way.ids); {
			case !slices.Equal(way.ours, way.ids):
				differing = append(differing, fmt.Sprintf("%s %.80q: %v, expected %v", way.name, text, way.ours, way.ids))
			case got != decoded || got != text:
				differing = append(differing, fmt.Sprintf("%s %.80q: decodes to %.80q, expected %.80q", way.name, text, got, decoded))
			}
		}
	}
	return differing, special, count, nil
}

// hostile times strings without word boundaries, and compares their ids, under a tokenizer of its own and those
// given.
func (r *tokenizerRun) hostile(given []namedTokenizer) error {
	// Merges that double a run keep the queue of merges busy to the end.
	short := slices.Collect(maps.Values(hostile(4096)))
	deep, err := tokenizer.Train(slices.Values(append(short, short...)), 1024, trialSpecials)
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, "deep.json")
	if err := deep.Save(path); err != nil {
		return err
	}
	named := append([]namedTokenizer{{"chorus, of such strings", path}}, given...)
	small, large := hostile(hostileLength), hostile(10*hostileLength)
	rows := [][]string{{"", "", "n", "10 n", "grows", "tokenizers, n"}}
	worst, same := 0.0, true
	for _, of := range named {
		tok, err := tokenizer.Load(of.path)
		if err != nil {
			return err
		}
		if err := r.oracle.ask(map[string]any{"do": "load", "path": of.path}, nil); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(small)) {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			one, ten := fastest(tok, small[name], large[name])
			var their [2]float64
			if err := r.oracle.ask(map[string]any{"do": "time", "texts": []string{small[name]}}, &their); err != nil {
				return err
			}
			differing, _, _, err := r.compareBatch(tok, []string{small[name]})
			if err != nil {
				return err
			}
			if len(differing) > 0 {
				same = false
				fmt.Printf("  %s, %s: the ids differ\n", of.name, name)
			}
			grows := ten / one
			worst = max(worst, grows)
			rows = append(rows, []string{of.name, name, milliseconds(one), milliseconds(ten), fmt.Sprintf("%.1f", grows), milliseconds(their[0])})
		}
	}
	fmt.Printf("\nStrings of n = %d characters and ten times that, milliseconds\n", hostileLength)
	table(rows)
	r.check(same, "hostile strings have the same ids")
	r.check(worst < hostileGrowth, "ten times the characters take at most %.1f times as long, below %d", worst, hostileGrowth)
	return nil
}

// fastest is the least of the times that encoding each of two texts takes, in seconds: three times in turn, or
// more where other work on the machine seems to have slowed the second one.
func fastest(tok *tokenizer.Tokenizer, small, large string) (one, ten float64) {
	least := func(of float64, text string) float64 {
		began := time.Now()
		tok.Encode(text)
		return min(of, time.Since(began).Seconds())
	}
	one, ten = math.Inf(1), math.Inf(1)
	for i := 0; i < 3 || i < 12 && ten/one >= hostileGrowth; i++ {
		one, ten = least(one, small), least(ten, large)
	}
	return one, ten
}

// speed encodes the same documents on both sides in turn.
func (r *tokenizerRun) speed(named []namedTokenizer) error {
	var texts []string
	size := 0
	for _, t := range r.texts {
		if size < speedText {
			texts = append(texts, t)
			size += len(t)
		}
	}
	source := filepath.Join(r.dir, "speed.jsonl")
	if err := writeTexts(source, texts); err != nil {
		return err
	}
	if err := r.oracle.ask(map[string]any{"do": "texts", "path": source}, nil); err != nil {
		return err
	}
	rows := [][]string{{"", "chorus MB/s", "tokens/s", "tokenizers MB/s", "tokens/s", "ratio"}}
	ratios := make([]float64, len(named))
	for n, of := range named {
		tok, err := tokenizer.Load(of.path)
		if err != nil {
			return err
		}
		if err := r.oracle.ask(map[string]any{"do": "load", "path": of.path}, nil); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "timing %s\n", of.name)
		var ours, theirs, ratio []float64
		tokens := 0
		for round := range speedRounds + 1 {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			began, ids := time.Now(), 0
			for _, t := range texts {
				ids += len(tok.Encode(t))
			}
			took := time.Since(began).Seconds()
			var their [2]float64
			if err := r.oracle.ask(map[string]any{"do": "time"}, &their); err != nil {
				return err
			}
			if ids != int(their[1]) {
				return fmt.Errorf("%s: %d tokens, tokenizers has %v", of.name, ids, their[1])
			}
			if tokens = ids; round > 0 { // the first one warms the caches
				ours, theirs, ratio = append(ours, took), append(theirs, their[0]), append(ratio, their[0]/took)
			}
		}
		a, b := median(ours), median(theirs)
		ratios[n] = median(ratio)
		rows = append(rows, []string{of.name,
			fmt.Sprintf("%.1f", float64(size)/1e6/a), fmt.Sprintf("%.0f", float64(tokens)/a),
			fmt.Sprintf("%.1f", float64(size)/1e6/b), fmt.Sprintf("%.0f", float64(tokens)/b), fmt.Sprintf("%.2f", ratios[n])})
	}
	fmt.Printf("\nEncoding %.1f MB in %d documents, medians of %d rounds in turn\n", float64(size)/1e6, len(texts), speedRounds)
	table(rows)
	for n, of := range named {
		r.check(ratios[n] >= 1, "%s: chorus encodes no slower: %.2f times as fast", of.name, ratios[n])
	}
	return nil
}

func milliseconds(s float64) string { return fmt.Sprintf("%.2f", 1e3*s) }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// table prints rows in columns.
func table(rows [][]string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, "  "+strings.Join(row, "\t"))
	}
	w.Flush()
}
