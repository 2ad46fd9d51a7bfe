package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/eval"
	"chorus/model/tokenizer"
	"chorus/model/train"
	"chorus/node"

	"github.com/spf13/cobra"
)

// windowTokens is how much context training and evaluation give.
const windowTokens = 128

// endOfText ends each document.
const endOfText = "<|endoftext|>"

func (a *app) anchorCommand() *cobra.Command {
	c := &cobra.Command{Use: "anchor", Short: "Make or take over the public model that every expert is trained against"}
	group(c)
	c.AddCommand(a.anchorTrain(), a.anchorImport())
	return c
}

func (a *app) anchorTrain() *cobra.Command {
	var data []string
	var out string
	var seed uint64
	var steps int
	c := &cobra.Command{
		Use:   "train",
		Short: "Train an anchor on public text",
		Long: `Trains a tokenizer and a small model on public text. Interrupted, it goes on where it was when it
is run again. Without --data the text is the documentation in the Go distribution.`,
		Example: `  chorus anchor train --data public=./wikipedia --out anchor`,
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			public, err := publicText(data)
			if err != nil {
				return err
			}
			r := train.AnchorRecipe(seed)
			r.Steps = steps
			if err := a.trainAnchor(c.Context(), public, r, out); err != nil {
				return err
			}
			a.say("the anchor is in %s", out)
			return nil
		},
	}
	c.Flags().StringArrayVar(&data, "data", nil, "public=PATH: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz (repeatable)")
	c.Flags().StringVar(&out, "out", "anchor", "folder to write the anchor to; it must not exist")
	c.Flags().Uint64Var(&seed, "seed", 1, "the same seed and text give the same anchor")
	c.Flags().IntVar(&steps, "steps", train.AnchorRecipe(0).Steps, "how long to train")
	return c
}

// publicText is the text named public in data, or what every machine with Go has.
func publicText(data []string) (domain, error) {
	given, err := parseData(data)
	if err != nil {
		return domain{}, err
	}
	for _, d := range given {
		if d.name == publicDomain {
			return d, nil
		}
	}
	public, _, err := goDomains()
	return public, err
}

// trainAnchor trains a tokenizer and an anchor on public and saves both in the folder dir, unless it
// is there already.
func (a *app) trainAnchor(ctx context.Context, public domain, r train.Recipe, dir string) error {
	if exists(dir) {
		return nil
	}
	corpus, err := public.read()
	if err != nil {
		return err
	}
	tok, err := tokenizer.Train(slices.Values(corpus.Train), train.Vocabulary, []string{endOfText})
	if err != nil {
		return err
	}
	eos, _ := tok.SpecialID(endOfText)
	config := train.AnchorConfig(tok.VocabSize(), eos)
	checkpoint := dir + ".checkpoint"
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	t := a.task("anchor", int64(r.Steps))
	tensors, err := train.Anchor(ctx, train.AnchorJob{
		Config: config, Text: train.Encode(corpus.Train, tok.Encode, eos, 0), Recipe: r, Checkpoint: checkpoint, Report: t.training(),
	})
	t.end()
	if err != nil {
		return err
	}
	if err := model.SaveAnchor(dir, config, tok, tensors); err != nil {
		return err
	}
	return os.Remove(checkpoint)
}

func (a *app) trainCommand() *cobra.Command {
	var data []string
	var seed uint64
	var steps int
	c := &cobra.Command{
		Use:   "train --data NAME=PATH",
		Short: "Train an expert on your own text",
		Long: `Trains an expert against the charter's anchor on text that stays on this machine, holds a tenth of
the documents out, and measures it on those. Interrupted, it goes on where it was when it is run
again. Public text stands beside the private so that the router learns to tell them apart;
without --data public=PATH it is the documentation in the Go distribution.`,
		Example: `  chorus train --data cardiology=./reports --data public=./wikipedia
  chorus publish cardiology`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			given, err := parseData(data)
			if err != nil {
				return err
			}
			given = slices.DeleteFunc(given, func(d domain) bool { return d.name == publicDomain })
			if len(given) != 1 {
				return usageError{errors.New("name the text of one expert with --data NAME=PATH")}
			}
			public, err := publicText(data)
			if err != nil {
				return err
			}
			if _, err := a.node().LoadCharter(); err != nil {
				return err
			}
			if !exists(a.node().Anchor()) {
				return a.noAnchor()
			}
			r := train.ExpertRecipe(seed)
			r.Steps = steps
			m, err := a.trainExpert(c.Context(), a.node(), given[0], public, r)
			if err != nil {
				return err
			}
			return a.result(m, func() {
				a.say("%s: %.3f bits per byte on held-out text, the anchor %.3f\nOffer it with: chorus publish %s",
					given[0].name, m.ExpertBitsPerByte, m.AnchorBitsPerByte, given[0].name)
			})
		},
	}
	c.Flags().StringArrayVar(&data, "data", nil, "NAME=PATH: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz (repeatable)")
	c.Flags().Uint64Var(&seed, "seed", 1, "the same seed and text give the same expert")
	c.Flags().IntVar(&steps, "steps", train.ExpertRecipe(0).Steps, "how long to train")
	return c
}

func (a *app) noAnchor() error {
	return withHint(fmt.Errorf("%s has no anchor yet", a.home), "run `chorus up` once: it fetches the charter's anchor from another member")
}

// openAnchor opens the home's anchor.
func (a *app) openAnchor() (*model.Anchor, *tokenizer.Tokenizer, error) {
	if !exists(a.node().Anchor()) {
		return nil, nil, a.noAnchor()
	}
	return model.LoadAnchor(a.node().Anchor())
}

// trainExpert trains an expert on d against the anchor of home, saves it there with its metrics, and
// returns those. An expert that is there already is left as it is.
func (a *app) trainExpert(ctx context.Context, home node.Home, d, public domain, r train.Recipe) (m notice.Metrics, err error) {
	path := home.ExpertPath(d.name)
	if b, err := os.ReadFile(reportPath(path)); err == nil {
		return m, json.Unmarshal(b, &m)
	}
	charter, err := home.LoadCharter()
	if err != nil {
		return m, err
	}
	anchor, tok, err := model.LoadAnchor(home.Anchor())
	if err != nil {
		return m, err
	}
	own, err := encodeCorpus(d, anchor, tok)
	if err != nil {
		return m, err
	}
	common, err := encodeCorpus(public, anchor, tok)
	if err != nil {
		return m, err
	}
	checkpoint := path + ".checkpoint"
	t := a.task(d.name, int64(r.Steps))
	id := charter.Body.(*notice.Charter).Anchor.String()
	tensors, err := train.Expert(ctx, train.ExpertJob{
		Anchor: anchor, AnchorCID: id, Text: own.train, Public: common.train, Recipe: r, Checkpoint: checkpoint, Report: t.training(),
	})
	t.end()
	if err != nil {
		return m, err
	}
	if err := model.SaveExpert(path, id, tensors); err != nil {
		return m, err
	}
	expert, err := model.LoadExpert(path, anchor)
	if err != nil {
		return m, err
	}
	m.TrainTokens = int64(r.Steps) * int64(r.Sequences) * int64(r.Length)
	if err := own.measure(&m, anchor, expert); err != nil {
		return m, err
	}
	if err := writeReport(path, m); err != nil {
		return m, err
	}
	return m, os.Remove(checkpoint)
}

// encoded is a corpus as tokens.
type encoded struct {
	train, heldout *train.Tokens
	documents      []string // held out, as text
}

// heldoutTokens bounds what is evaluated of one domain.
const heldoutTokens = 16 << 10

func encodeCorpus(d domain, anchor *model.Anchor, tok *tokenizer.Tokenizer) (e encoded, err error) {
	c, err := d.read()
	if err != nil {
		return e, err
	}
	eos := anchor.Config.EOS[0]
	return encoded{train.Encode(c.Train, tok.Encode, eos, 0), train.Encode(c.Heldout, tok.Encode, eos, heldoutTokens), c.Heldout}, nil
}

func (e encoded) bitsPerByte(m *model.Mixture) (float64, error) {
	return eval.BitsPerByte(m, e.heldout.IDs, e.heldout.Bytes, windowTokens)
}

// measure writes into m what the anchor and an expert need for the text that is held out.
func (e encoded) measure(m *notice.Metrics, anchor *model.Anchor, expert *model.Expert) (err error) {
	m.HeldoutBytes = e.heldout.Bytes
	if m.AnchorBitsPerByte, err = e.bitsPerByte(model.NewMixture(anchor)); err != nil {
		return err
	}
	m.ExpertBitsPerByte, err = e.bitsPerByte(model.NewMixture(anchor, expert))
	return err
}
