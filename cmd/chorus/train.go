package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	r := train.AnchorRecipe(1)
	c := &cobra.Command{
		Use:   "train",
		Short: "Train an anchor on public text",
		Long: `Trains a tokenizer and a small model on public text, of any size. Without --data the text is the
documentation in the Go distribution.

` + trainingHelp,
		Example: `  chorus anchor train --data public=./wikipedia --out anchor
  chorus anchor train --data public=./wikipedia --steps 20000 --batch 32 --micro-batch 8`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkRecipe(r, 1); err != nil {
				return err
			}
			given, err := parseData(data)
			if err != nil {
				return err
			}
			for _, d := range given {
				if d.name != publicDomain {
					return usageError{fmt.Errorf("--data %s=%s: an anchor learns from public text alone: name it with --data public=PATH", d.name, d.paths[0])}
				}
			}
			public, err := publicText(given)
			if err != nil {
				return err
			}
			if exists(out) {
				return withHint(fmt.Errorf("%s: %w", out, fs.ErrExist), "name another folder with --out, or remove this one to train it again")
			}
			report, err := a.trainAnchor(c.Context(), public, r, out)
			if err != nil {
				return err
			}
			return a.result(report, func() {
				a.say("the anchor is in %s", out)
				a.sayTrained(report, reportFolder(out))
			})
		},
	}
	c.Flags().StringArrayVar(&data, "data", nil, "public=PATH: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz (repeatable)")
	c.Flags().StringVar(&out, "out", "anchor", "folder to write the anchor to; it must not exist")
	recipeFlags(c, &r)
	return c
}

// publicText is the text named public in given, or what every machine with Go has.
func publicText(given []domain) (domain, error) {
	if i := slices.IndexFunc(given, isPublic); i >= 0 {
		return given[i], nil
	}
	public, _, err := goDomains()
	return public, err
}

func isPublic(d domain) bool { return d.name == publicDomain }

// ownAndPublic reads the values of --data: the text of one expert, and public text.
func ownAndPublic(data []string) (own, public domain, err error) {
	given, err := parseData(data)
	if err != nil {
		return own, public, err
	}
	others := slices.DeleteFunc(slices.Clone(given), isPublic)
	if len(others) != 1 {
		return own, public, usageError{errors.New("name the text of one expert with --data NAME=PATH")}
	}
	public, err = publicText(given)
	return others[0], public, err
}

// trainAnchor trains a tokenizer and an anchor on public and saves both in the folder dir, unless it
// is there already; then the report is nil.
func (a *app) trainAnchor(ctx context.Context, public domain, r train.Recipe, dir string) (*trainingReport, error) {
	work := workFolder(dir)
	if exists(dir) {
		return nil, os.RemoveAll(work)
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	defer os.Remove(work) // if nothing came of it: what is not empty stays
	tok, err := a.trainTokenizerIn(ctx, work, public)
	if err != nil {
		return nil, err
	}
	eos, _ := tok.SpecialID(endOfText)
	text, err := a.prepare(ctx, filepath.Join(work, public.name), public, tok, eos)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	heldout, err := public.reportOn(text.Heldout, tok, eos)
	if err != nil {
		return nil, err
	}
	report := newReport("anchor", r)
	report.Text = text.Counts
	job := train.AnchorJob{
		Config: train.AnchorConfig(tok.VocabSize(), eos), Text: text.Train, Valid: train.Encode(text.Valid, tok.Encode, eos, validTokens), Recipe: r,
		Checkpoint: filepath.Join(work, "checkpoint"), History: &report.History,
	}
	t := a.task("anchor", int64(r.Steps))
	job.Report = t.training()
	tensors, err := train.Anchor(ctx, job)
	t.end()
	if err != nil {
		return nil, err
	}
	if err := model.SaveAnchor(dir, job.Config, tok, tensors); err != nil {
		return nil, err
	}
	anchor, _, err := model.LoadAnchor(dir)
	if err != nil {
		return nil, err
	}
	own := encoded{heldout: heldout} // of what is saved, also an interrupted command measures and reports
	report.Metrics.TrainTokens, report.Metrics.HeldoutBytes = report.tokens(), own.heldout.Bytes
	if report.Metrics.AnchorBitsPerByte, err = own.bitsPerByte(context.WithoutCancel(ctx), model.NewMixture(anchor)); err != nil {
		return nil, err
	}
	if err := report.write(reportFolder(dir)); err != nil {
		return nil, err
	}
	return report, errors.Join(text.Close(), os.RemoveAll(work))
}

// trainTokenizerIn trains a tokenizer on a sample of public, or takes the one that it left in the folder work before.
func (a *app) trainTokenizerIn(ctx context.Context, work string, public domain) (*tokenizer.Tokenizer, error) {
	key, err := public.source().Key()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(work, "tokenizer-"+key[:16]+".json")
	if exists(path) {
		return tokenizer.Load(path)
	}
	report, end := a.transfer("tokenizer")
	sampled, err := train.SampleTraining(ctx, public.source(), textBytes, report)
	end()
	if err != nil {
		return nil, public.hint(err)
	}
	tok, err := tokenizer.Train(slices.Values(sampled), train.Vocabulary, []string{endOfText})
	if err != nil {
		return nil, err
	}
	return tok, tok.Save(path)
}

func (a *app) trainCommand() *cobra.Command {
	var data []string
	var canaries planting
	var dp privacySetting
	r := train.ExpertRecipe(1)
	c := &cobra.Command{
		Use:   "train --data NAME=PATH",
		Short: "Train an expert on your own text",
		Long: `Trains an expert against the charter's anchor on text of any size, which stays on this machine. The expert
is left in the data folder as training/NAME.safetensors, for "chorus audit" and "chorus publish".
Public text stands beside the private so that the router learns to tell them apart; without
--data public=PATH it is the documentation in the Go distribution.

` + trainingHelp + "\n" + privacyHelp(),
		Example: `  chorus train --data cardiology=./reports --data public=./wikipedia
  chorus train --data cardiology=./reports --steps 20000 --batch 32 --micro-batch 8
  chorus train --data cardiology=./reports.jsonl --dp-epsilon 3 --dp-delta 1e-6 --dp-unit field:patient_id
  chorus audit cardiology --data cardiology=./reports
  chorus publish cardiology`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkRecipe(r, 2); err != nil {
				return err
			}
			if err := canaries.check(); err != nil {
				return err
			}
			private, privately, err := dp.recipe(c, r)
			if err != nil {
				return err
			}
			like := train.ExpertRecipe(0)
			r.PublicSequences = max(1, r.Sequences*like.PublicSequences/like.Sequences)
			r.SplicedSequences = r.Sequences * like.SplicedSequences / like.Sequences
			own, public, err := ownAndPublic(data)
			if err != nil {
				return err
			}
			if _, err := a.node().LoadCharter(); err != nil {
				return err
			}
			name := own.name
			path := a.node().ExpertPath(name)
			if exists(reportPath(path)) { // which is written last
				return errors.Join(os.RemoveAll(workFolder(path)), withHint(fmt.Errorf("there is an expert %q already: %s", name, path),
					fmt.Sprintf("offer it with `chorus publish %s`, or train under another name", name),
					fmt.Sprintf("to train it again, remove %s and %s", path, reportPath(path))))
			}
			if !exists(a.node().Anchor()) {
				return a.noAnchor()
			}
			if own.also, err = canaries.plant(path); err != nil {
				return err
			}
			var report *trainingReport
			if privately {
				report, err = a.trainPrivately(c.Context(), a.node(), own, public, dp, private)
			} else {
				report, err = a.trainExpert(c.Context(), a.node(), own, public, r)
			}
			if err != nil {
				return err
			}
			return a.result(report, func() {
				m := report.Metrics
				a.say("%s: %.3f bits per byte on held-out text, the anchor %.3f", name, m.ExpertBitsPerByte, m.AnchorBitsPerByte)
				a.sayTrained(report, reportFolder(path))
				if privately {
					a.sayPrivacy(report.Privacy)
				}
				a.say("Look for what it gives away with: chorus audit %s --data %s", name, strings.Join(data, " --data "))
				a.say("Then offer it with: chorus publish %s", name)
			})
		},
	}
	c.Flags().StringArrayVar(&data, "data", nil, "NAME=PATH: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz (repeatable)")
	canaries.flags(c)
	recipeFlags(c, &r)
	dp.flags(c)
	return c
}

func (a *app) noAnchor() error {
	return withHint(fmt.Errorf("%s has no anchor yet", a.home), "run `chorus up` once: it puts the charter's anchor there, which it has or fetches from another member")
}

// openAnchor opens the home's anchor.
func (a *app) openAnchor() (*model.Anchor, *tokenizer.Tokenizer, error) {
	if !exists(a.node().Anchor()) {
		return nil, nil, a.noAnchor()
	}
	return model.LoadAnchor(a.node().Anchor())
}

// trainExpert trains an expert on d against the anchor of home, and saves it there with its metrics and a report. An expert that is there
// already is left as it is, and the report has its metrics alone.
func (a *app) trainExpert(ctx context.Context, home node.Home, d, public domain, r train.Recipe) (*trainingReport, error) {
	path := home.ExpertPath(d.name)
	report := newReport(d.name, r)
	if b, err := os.ReadFile(reportPath(path)); err == nil {
		return report, json.Unmarshal(b, &report.Metrics)
	}
	charter, err := home.LoadCharter()
	if err != nil {
		return nil, err
	}
	anchor, tok, err := model.LoadAnchor(home.Anchor())
	if err != nil {
		return nil, err
	}
	work, eos := workFolder(path), anchor.Config.EOS[0]
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	defer os.Remove(work) // if nothing came of it: what is not empty stays
	text, err := a.prepare(ctx, filepath.Join(work, "text"), d, tok, eos)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	heldout, err := d.reportOn(text.Heldout, tok, eos)
	if err != nil {
		return nil, err
	}
	common, err := a.prepare(ctx, filepath.Join(work, publicDomain), public, tok, eos)
	if err != nil {
		return nil, err
	}
	defer common.Close()
	report.Text, report.Public, report.Canaries = text.Counts, &common.Counts, len(d.also)
	id := charter.Body.(*notice.Charter).Anchor.String()
	t := a.task(d.name, int64(r.Steps))
	tensors, err := train.Expert(ctx, train.ExpertJob{
		Anchor: anchor, AnchorCID: id, Text: text.Train, Public: common.Train, Valid: train.Encode(text.Valid, tok.Encode, eos, validTokens), Recipe: r,
		Checkpoint: filepath.Join(work, "checkpoint"), Report: t.training(), History: &report.History,
	})
	t.end()
	if err != nil {
		return nil, err
	}
	if err := report.keep(context.WithoutCancel(ctx), path, id, tensors, anchor, heldout); err != nil {
		return nil, err
	}
	return report, errors.Join(text.Close(), common.Close(), os.RemoveAll(work))
}

// prepare makes d ready to train on, in the folder dir.
func (a *app) prepare(ctx context.Context, dir string, d domain, tok *tokenizer.Tokenizer, eos int) (*train.Prepared, error) {
	report, end := a.transfer(d.name + " text")
	defer end()
	p, err := train.Prepare(ctx, dir, d.source(), tok, eos, report)
	return p, d.hint(err)
}

// reportOn makes tokens of what d holds out, and says before the training, not after it, if they are too few to report on.
func (d domain) reportOn(documents []string, tok *tokenizer.Tokenizer, eos int) (*train.Tokens, error) {
	t := train.Encode(documents, tok.Encode, eos, heldoutTokens)
	if t.Len() <= windowTokens {
		return nil, withHint(fmt.Errorf("the documents of %s that are held out to report on have %d tokens, expected more than %d", d.name, t.Len(), windowTokens),
			fmt.Sprintf("name more text with --data %s=PATH: a tenth of it is held out", d.name))
	}
	return t, nil
}

// encoded is what a domain holds out, as tokens and as text.
type encoded struct {
	heldout   *train.Tokens
	documents []string
}

const (
	heldoutTokens = 16 << 10 // bounds what is evaluated of one domain
	validTokens   = 8 << 10  // bounds what is measured of it again and again while training
)

// encodeCorpus reads what was held out of d in the training of an expert that claims p, nil for one that was not private.
func encodeCorpus(d domain, p *notice.Privacy, anchor *model.Anchor, tok *tokenizer.Tokenizer) (e encoded, err error) {
	c, err := d.readFor(p)
	if err != nil {
		return e, err
	}
	return encoded{train.Encode(c.Heldout, tok.Encode, anchor.Config.EOS[0], heldoutTokens), c.Heldout}, nil
}

func (e encoded) bitsPerByte(ctx context.Context, m *model.Mixture) (float64, error) {
	return eval.BitsPerByte(ctx, m, e.heldout.IDs, e.heldout.Bytes, windowTokens)
}

// measure writes into m what the anchor and an expert need for the text that is held out.
func (e encoded) measure(ctx context.Context, m *notice.Metrics, anchor *model.Anchor, expert *model.Expert) (err error) {
	m.HeldoutBytes = e.heldout.Bytes
	if m.AnchorBitsPerByte, err = e.bitsPerByte(ctx, model.NewMixture(anchor)); err != nil {
		return err
	}
	m.ExpertBitsPerByte, err = e.bitsPerByte(ctx, model.NewMixture(anchor, expert))
	return err
}
