package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/eval"
	"chorus/model/tokenizer"
	"chorus/model/train"

	"github.com/spf13/cobra"
)

func lowrankTrial() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "lowrank",
		Short: "Compress the demo's experts to several ranks and measure what that costs",
		Long: `Runs the demo once for its anchor and its three experts, compresses each to ranks from 1 to the full one,
and measures them on text that was held out: each expert alone beside the public FFN, and all of one rank together. Then
it compresses matrices of a 7B model's sizes. It takes four minutes and 2 GB of memory; with --dir the experts are
kept, and the next run takes one minute.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runLowRank(c.Context(), dir) },
	}
	c.Flags().StringVar(&dir, "dir", "", "folder to keep the demo in; default: a temporary one")
	return c
}

// lowranks are the ranks that are tried below the full one.
var lowranks = []int{1, 2, 4, 8, 16, 32, 64}

// trained is one of the demo's experts, with text of its domain.
type trained struct {
	name       string
	suffixes   []string
	paths      []string // of its text, in the Go distribution
	blob       string
	full       *model.Expert
	heldout    *train.Tokens
	anchorBits float64
}

type lowrankRun struct {
	*tally
	ctx      context.Context
	dir      string
	anchor   *model.Anchor
	subjects []*trained
}

// A lowrankRow is what one form of the experts comes to. Bits are per byte, by subject.
type lowrankRow struct {
	bytes        int64 // of all blobs
	alone, mixed []float64
}

func runLowRank(ctx context.Context, dir string) error {
	if dir == "" {
		temporary, err := os.MkdirTemp("", "chorus-trial-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		dir = temporary
	}
	r := &lowrankRun{tally: &tally{}, ctx: ctx, dir: dir, subjects: []*trained{
		{name: "prose", paths: []string{"src/testdata/Isaac.Newton-Opticks.txt"}},
		{name: "go", suffixes: []string{".go"}, paths: []string{"src/net", "src/encoding", "src/go", "src/image", "src/text", "src/database"}},
		{name: "assembly", suffixes: []string{".s"}, paths: []string{"src"}},
	}}
	if err := r.prepare(); err != nil {
		return err
	}
	if err := r.quality(); err != nil {
		return err
	}
	if err := r.large(); err != nil {
		return err
	}
	return r.verdict()
}

// prepare trains the demo's experts, unless they are there, and loads them with the text that was held out.
func (r *lowrankRun) prepare() error {
	demo := filepath.Join(r.dir, "demo")
	for _, s := range r.subjects {
		s.blob = filepath.Join(demo, "house-of-"+s.name, "training", s.name+".safetensors")
	}
	if _, err := os.Stat(r.subjects[len(r.subjects)-1].blob + ".json"); err != nil {
		if err := r.runDemo(demo); err != nil {
			return err
		}
	}
	var tok *tokenizer.Tokenizer
	var err error
	if r.anchor, tok, err = model.LoadAnchor(filepath.Join(demo, "commons", "training", "anchor")); err != nil {
		return err
	}
	goroot, err := exec.CommandContext(r.ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	for _, s := range r.subjects {
		for i, p := range s.paths {
			s.paths[i] = filepath.Join(strings.TrimSpace(string(goroot)), filepath.FromSlash(p))
		}
		corpus, err := train.ReadCorpus(4<<20, s.suffixes, s.paths...)
		if err != nil {
			return err
		}
		s.heldout = train.Encode(corpus.Heldout, tok.Encode, r.anchor.Config.EOS[0], 16<<10)
		if s.full, err = model.LoadExpert(s.blob, r.anchor); err != nil {
			return err
		}
		b, err := os.ReadFile(s.blob + ".json")
		if err != nil {
			return err
		}
		var m notice.Metrics
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("%s.json: %w", s.blob, err)
		}
		if s.anchorBits, err = r.bits(s); err != nil {
			return err
		}
		full, err := r.bits(s, s.full)
		if err != nil {
			return err
		}
		off := furthest([]float64{s.anchorBits, full}, []float64{m.AnchorBitsPerByte, m.ExpertBitsPerByte})
		r.check(off <= roundingBits,
			"%s: the text is what the demo held out: anchor %.3f, with the expert %.3f bits per byte", s.name, s.anchorBits, full)
	}
	return nil
}

func (r *lowrankRun) runDemo(dir string) error {
	fmt.Println("running the demo for its experts")
	chorus, err := buildChorus(r.ctx, r.dir)
	if err != nil {
		return err
	}
	c := interruptible(r.ctx, chorus, "demo", "--json", "--dir", dir)
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("the demo: %w", err)
	}
	return nil
}

// bits are what the anchor with those experts needs per byte of a subject's text.
func (r *lowrankRun) bits(s *trained, experts ...*model.Expert) (float64, error) {
	return eval.BitsPerByte(r.ctx, model.NewMixture(r.anchor, experts...), s.heldout.IDs, s.heldout.Bytes, 128)
}

// measure measures one expert for each subject, alone and together; the blobs are where path says.
func (r *lowrankRun) measure(path func(*trained) string) (row lowrankRow, err error) {
	var experts []*model.Expert
	for _, s := range r.subjects {
		info, err := os.Stat(path(s))
		if err != nil {
			return row, err
		}
		row.bytes += info.Size()
		e, err := model.LoadExpert(path(s), r.anchor)
		if err != nil {
			return row, err
		}
		experts = append(experts, e)
	}
	for i, s := range r.subjects {
		alone, err := r.bits(s, experts[i])
		if err != nil {
			return row, err
		}
		mixed, err := r.bits(s, experts...)
		if err != nil {
			return row, err
		}
		row.alone, row.mixed = append(row.alone, alone), append(row.mixed, mixed)
	}
	return row, nil
}

// Bounds of what is claimed.
const (
	roundingBits = 0.002 // bits per byte that rounding the factors may move
	noiseBits    = 0.01  // by which a larger rank may be worse
	smallRank    = 16    // at which
	smallFactor  = 4     // times smaller a blob is, and
	smallKeeps   = 0.6   // of the gain is kept
)

func (r *lowrankRun) quality() error {
	forms, err := os.MkdirTemp(r.dir, "ranks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(forms)
	at := func(rank int) func(*trained) string {
		return func(s *trained) string { return filepath.Join(forms, fmt.Sprintf("%s-r%d", s.name, rank)) }
	}
	most := min(r.anchor.Config.HiddenSize, r.anchor.Config.IntermediateSize)
	ranks := append(lowranks[:len(lowranks):len(lowranks)], most)
	full, err := r.measure(func(s *trained) string { return s.blob })
	if err != nil {
		return err
	}
	var table []lowrankRow
	for _, rank := range ranks {
		for _, s := range r.subjects {
			if err := model.CompressExpert(r.ctx, at(rank)(s), s.full, r.anchor, rank, nil); err != nil {
				return err
			}
		}
		row, err := r.measure(at(rank))
		if err != nil {
			return err
		}
		table = append(table, row)
	}
	some := map[string]int{"prose": 4, "go": 16, "assembly": most}
	several, err := r.measure(func(s *trained) string { return at(some[s.name])(s) })
	if err != nil {
		return err
	}

	anchor := lowrankRow{}
	for _, s := range r.subjects {
		anchor.alone, anchor.mixed = append(anchor.alone, s.anchorBits), append(anchor.mixed, s.anchorBits)
	}
	fmt.Printf("\nbits per byte of held-out text: each expert beside the public FFN, and all together; gain kept of the full experts'\n")
	fmt.Printf("%-12s %9s %6s  %7s %7s %8s %6s  %7s %7s %8s %6s\n", "rank", "KB each", "size", "prose", "go", "assembly", "kept", "prose", "go", "assembly", "kept")
	show := func(name string, row lowrankRow) {
		fmt.Printf("%-12s %9.0f %5.0f%%  %7.3f %7.3f %8.3f %5.1f%%  %7.3f %7.3f %8.3f %5.1f%%\n", name,
			float64(row.bytes)/1e3/float64(len(r.subjects)), 100*float64(row.bytes)/float64(full.bytes),
			row.alone[0], row.alone[1], row.alone[2], 100*kept(row.alone, anchor.alone, full.alone),
			row.mixed[0], row.mixed[1], row.mixed[2], 100*kept(row.mixed, anchor.mixed, full.mixed))
	}
	show("anchor", anchor)
	for i, rank := range ranks {
		show(fmt.Sprint(rank), table[i])
	}
	show("not reduced", full)
	show("4, 16, full", several)
	fmt.Println()

	last := table[len(table)-1]
	off := max(furthest(last.alone, full.alone), furthest(last.mixed, full.mixed))
	r.check(off <= roundingBits, "at full rank only rounding is left: %.5f bits per byte at the most", off)
	for i, rank := range ranks {
		row := table[i]
		if rank == smallRank {
			keeps := min(kept(row.alone, anchor.alone, full.alone), kept(row.mixed, anchor.mixed, full.mixed))
			r.check(row.bytes*smallFactor < full.bytes && keeps > smallKeeps, "at rank %d blobs are %.1f times smaller and keep %.0f %% of the gain", rank, float64(full.bytes)/float64(row.bytes), 100*keeps)
		}
		if i > 0 {
			worse := max(mean(row.alone)-mean(table[i-1].alone), mean(row.mixed)-mean(table[i-1].mixed))
			r.check(worse < noiseBits, "rank %d is no worse than %d: %+.4f bits per byte in the mean", rank, ranks[i-1], worse)
		}
	}
	for i, s := range r.subjects {
		r.check(several.mixed[i] < anchor.mixed[i], "%s: in a mixture of ranks 4, 16 and full, %.3f bits per byte against the anchor's %.3f", s.name, several.mixed[i], anchor.mixed[i])
	}
	for _, share := range []float64{0.9, 0.95, 0.99} {
		fmt.Printf("          %.0f %% of the gain: alone from rank %s, together from rank %s\n", 100*share,
			first(ranks, func(i int) bool { return kept(table[i].alone, anchor.alone, full.alone) >= share }),
			first(ranks, func(i int) bool { return kept(table[i].mixed, anchor.mixed, full.mixed) >= share }))
	}
	return nil
}

// kept is the share of the gain over the anchor, in the mean of the subjects.
func kept(row, anchor, full []float64) float64 {
	return (mean(anchor) - mean(row)) / (mean(anchor) - mean(full))
}

func mean(v []float64) (m float64) {
	for _, x := range v {
		m += x / float64(len(v))
	}
	return m
}

func furthest(a, b []float64) (most float64) {
	for i, v := range a {
		most = max(most, math.Abs(v-b[i]))
	}
	return most
}

func first(ranks []int, good func(i int) bool) string {
	for i, rank := range ranks {
		if good(i) {
			return fmt.Sprint(rank)
		}
	}
	return "none"
}

// The matrices of OLMo 2 7B, the rank that they are compressed to, and how long one may take.
const (
	largeHidden, largeIntermediate = 4096, 11008

	largeRank       = 256
	largeRankMatrix = time.Minute
)

// large compresses the three matrices of one layer of a 7B model.
func (r *lowrankRun) large() error {
	c := model.Config{
		VocabSize: 1, HiddenSize: largeHidden, IntermediateSize: largeIntermediate, Layers: 1, Heads: 32, KVHeads: 32,
		MaxPositions: 1, RMSNormEps: 1e-6, Experts: 1, TopK: 1,
	}
	a, err := model.BuildAnchor(c, func(_ string, shape ...int) ([]float32, error) { return make([]float32, elements(shape)), nil })
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(r.dir, "large-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var tensors []model.Tensor
	random := rand.New(rand.NewPCG(7, 7))
	_, err = model.BuildExpert(c, func(name string, shape ...int) ([]float32, error) {
		v := make([]float32, elements(shape))
		for i := range v {
			v[i] = random.Float32() - 0.5
		}
		tensors = append(tensors, model.Tensor{Name: name, Shape: shape, Values: v})
		return v, nil
	})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "expert")
	if err := model.SaveExpert(path, "", tensors); err != nil {
		return err
	}
	tensors = nil // half a gigabyte
	e, err := model.LoadExpert(path, a)
	if err != nil {
		return err
	}
	began := time.Now()
	var took time.Duration
	err = model.CompressExpert(r.ctx, filepath.Join(dir, "low"), e, a, largeRank, func(done, total int) {
		took = time.Since(began) / time.Duration(done)
	})
	if err != nil {
		return err
	}
	r.check(took < largeRankMatrix, "a matrix of %d×%d takes %v to compress to rank %d", largeIntermediate, largeHidden, took.Round(100*time.Millisecond), largeRank)
	return nil
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
