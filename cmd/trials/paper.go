package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/durable"
	"chorus/model"
	"chorus/model/eval"

	"github.com/spf13/cobra"
)

// A paperScale is the size of everything in the table.
type paperScale struct {
	hidden, intermediate, layers, heads, vocab   int
	sequences, publicSequences, splicedSequences int // of a step's batch, in windows
	length                                       int // of a window, in tokens; the first half of one that is evaluated is its input
	anchorSteps, expertSteps                     int
	anchorRate, wholeRate, expertRate            float64
	unrestrictedRate, tuneRate                   float64
	trainTokens                                  int   // of a domain, at most
	evalBytes                                    int64 // of each text that is evaluated; of valid, half
	ranks                                        []int
}

var paperScales = map[string]paperScale{
	"small": {
		hidden: 128, intermediate: 512, layers: 5, heads: 4, vocab: 1024, sequences: 4, publicSequences: 1, splicedSequences: 1, length: 256,
		anchorSteps: 700, expertSteps: 60, anchorRate: 4e-3, wholeRate: 2e-3, expertRate: 4e-3, unrestrictedRate: 3e-3, tuneRate: 2e-3,
		trainTokens: 1 << 20, evalBytes: 10_000, ranks: []int{8, 32},
	},
	"full": {
		hidden: 192, intermediate: 768, layers: 5, heads: 6, vocab: 1024, sequences: 4, publicSequences: 1, splicedSequences: 1, length: 256,
		anchorSteps: 5000, expertSteps: 500, anchorRate: 4e-3, wholeRate: 2e-3, expertRate: 4e-3, unrestrictedRate: 3e-3, tuneRate: 2e-3,
		trainTokens: 4 << 20, evalBytes: 60_000, ranks: []int{16, 64},
	},
}

// denseSteps is how many steps a dense model takes to see as much of a member's text as its expert does.
func (s paperScale) denseSteps() int {
	return s.expertSteps * (2*(s.sequences-s.publicSequences) - s.splicedSequences) / (2 * s.sequences)
}

// input is how many tokens of a window that is evaluated are known.
func (s paperScale) input() int { return s.length / 2 }

func (s paperScale) config(vocab, eos int) model.Config {
	c := model.Config{
		VocabSize: vocab, HiddenSize: s.hidden, IntermediateSize: s.intermediate, Layers: s.layers, Heads: s.heads, KVHeads: s.heads,
		MaxPositions: 1024, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{eos},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	return c
}

// A paper is one trial of the table.
type paper struct {
	*tally
	ctx      context.Context
	dir      string
	scale    paperScale
	rows     []string
	data     *paperData
	progress *paperProgress
}

// newPaper returns a trial at the scale of that name, which keeps what was trained in dir; if that is empty, in the user's cache.
func newPaper(ctx context.Context, dir, scale string) (*paper, error) {
	s, ok := paperScales[scale]
	if !ok {
		return nil, fmt.Errorf("scale %q, expected small or full", scale)
	}
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(cache, "chorus", "paper")
	}
	return &paper{tally: &tally{}, ctx: ctx, dir: dir, scale: s}, nil
}

func paperTrial() *cobra.Command {
	var data, dir, scale, rows string
	var from uint64
	var seeds int
	c := &cobra.Command{
		Use:   "paper",
		Short: "Compare FlexOlmo with other ways to merge experts, as the paper's tables do",
		Long:  paperHelp(),
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := newPaper(c.Context(), dir, scale)
			if err != nil {
				return err
			}
			if seeds < 1 {
				return fmt.Errorf("%d seeds, expected 1 or more", seeds)
			}
			if rows == "" {
				rows = map[string]string{"small": "all", "full": "core"}[scale]
			}
			for r := range strings.SplitSeq(rows, ",") {
				if r != "all" && r != "core" && !slices.ContainsFunc(paperRowKinds, func(k paperRowKind) bool { return k.name == r }) {
					return fmt.Errorf("no row %q: see --help", r)
				}
				p.rows = append(p.rows, r)
			}
			return p.run(data, scale, from, seeds)
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder of DOMAIN/{train,valid,heldout}.jsonl.gz, of which public is the anchor's")
	_ = c.MarkFlagRequired("data") // it is there
	c.Flags().StringVar(&dir, "dir", "", "folder to keep what was trained in; default: one in the user's cache")
	c.Flags().StringVar(&scale, "scale", "small", "small or full")
	c.Flags().StringVar(&rows, "rows", "", "all, core, or names of rows with commas between; default: all of small, core of full; of all, those beyond the core are the first seed's")
	c.Flags().Uint64Var(&from, "from", 1, "the first seed")
	c.Flags().IntVar(&seeds, "seeds", 1, "how many seeds")
	c.AddCommand(paperExport())
	return c
}

func paperHelp() string {
	var b strings.Builder
	b.WriteString(`Trains a small anchor on public text, an expert for each of the other domains and for code, which is the Go distribution, and what they
are compared with, all with one configuration, and evaluates everything on held-out text: each domain's, and documents that
cross domains. It writes table.md, table.csv and plots to a folder of --dir that is named for the scale, and checks what FlexOlmo claims.
Every training is kept in --dir by what determines it: interrupted, the same command goes on where it was, and another
table costs what is new in it. The same seed gives the same table.
The claims are made for full. small shows every row in minutes, and some of them fail there.

Rows (* for core):
`)
	for _, k := range paperRowKinds {
		mark := " "
		if k.core {
			mark = "*"
		}
		fmt.Fprintf(&b, "  %s %-16s %s\n", mark, k.name, k.what)
	}
	b.WriteString(`
A dense model is the anchor, all of which is trained on one member's text. The first half of each window is its input, and what is scored is how well the
second half is predicted: Branch-Train-Merge, the weighted soup and prompt routing weigh models once, by the input. A dense model sees as much
of its member's text as the expert does, as in the paper; a row has those that take an expert's compute.

A unit of training is the compute of all experts together: the control, each ablation and the unrestricted mixture
take one each, BTX a quarter, router tuning a tenth, as counted in floating-point operations.
`)
	for _, name := range []string{"small", "full"} {
		s := paperScales[name]
		anchor := float64(s.anchorSteps) * s.stepFLOPs(1, s.sequences, s.everything(1))
		unit := float64(6*s.expertSteps) * s.stepFLOPs(2, s.sequences, s.ffnWeights())
		var core, all float64
		for _, k := range paperRowKinds {
			all += k.units
			if k.core {
				core += k.units
			}
		}
		fmt.Fprintf(&b, "%s: hidden %d, %d layers, FFN %d, vocabulary %d, windows of %d tokens; anchor %.0f TFLOPs, a unit of 6 experts %.0f;\n  core rows %.0f, all rows %.0f a seed\n",
			name, s.hidden, s.layers, s.intermediate, s.vocab, s.length, anchor/1e12, unit/1e12, (anchor+core*unit)/1e12, (anchor+all*unit)/1e12)
	}
	return b.String()
}

// wanted reports whether rows of a kind were asked for, of the first seed or of another.
func (p *paper) wanted(k paperRowKind, first bool) bool {
	all := slices.Contains(p.rows, "all")
	return all && first || k.core && (all || slices.Contains(p.rows, "core")) || slices.Contains(p.rows, k.name)
}

func (p *paper) run(data, scale string, from uint64, seeds int) error {
	for _, d := range []string{"runs", "scores", scale} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o700); err != nil {
			return err
		}
	}
	var err error
	if p.data, err = readPaperData(p.ctx, data, p.dir, p.scale); err != nil {
		return err
	}
	var total float64
	for i := range seeds {
		total += float64(p.scale.anchorSteps) * p.scale.stepFLOPs(1, p.scale.sequences, p.scale.everything(1))
		for _, k := range paperRowKinds {
			if p.wanted(k, i == 0) {
				total += k.units * p.membersFLOPs()
			}
		}
	}
	p.progress = newPaperProgress(total)
	table := &paperTable{from: from}
	for _, t := range p.data.heldout {
		table.texts = append(table.texts, t.name)
	}
	var figures []*paperFigures
	for seed := from; seed < from+uint64(seeds) && err == nil; seed++ {
		p.progress.prefix = fmt.Sprintf("seed %d, ", seed)
		var rows []paperRow
		var f *paperFigures
		rows, f, err = p.perSeed(seed, seed == from)
		table.seeds = append(table.seeds, rows)
		if f != nil {
			figures = append(figures, f)
		}
	}
	p.progress.end()
	if err != nil {
		return err
	}
	out := filepath.Join(p.dir, scale)
	var b bytes.Buffer
	table.markdown(&b)
	fmt.Println(b.String())
	err = durable.WriteFile(filepath.Join(out, "table.md"), func(w io.Writer) error {
		_, err := w.Write(b.Bytes())
		return err
	})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(out, "table.csv"), table.csv); err != nil {
		return err
	}
	if err := table.plots(out, figures); err != nil {
		return err
	}
	fmt.Printf("table.md, table.csv and plots are in %s\n", out)
	p.claims(table, figures)
	return p.verdict()
}

// perSeed makes the rows of one seed. The anchor is always the first.
func (p *paper) perSeed(seed uint64, first bool) (rows []paperRow, f *paperFigures, err error) {
	s := &paperSeed{paper: p, seed: seed, runs: make(map[string]*training), parts: make(map[string][]*eval.Prediction)}
	for i, k := range paperRowKinds {
		switch {
		case i > 0 && !p.wanted(k, first):
			continue
		case k.make == nil:
			f, err = s.figures(first)
		default:
			var some []paperRow
			some, err = k.make(s)
			rows = append(rows, some...)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return rows, f, nil
}
