package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/train"
	"chorus/node"

	"github.com/spf13/cobra"
)

// privacyHelp is what `chorus train` says of private training.
func privacyHelp() string {
	r := train.ExpertPrivately(0)
	return fmt.Sprintf(`
With --dp-epsilon and --dp-delta it trains with differential privacy: whatever the expert does, it would do nearly as likely
if any one unit of the text had not been there. A unit is a document, or with --dp-unit field:NAME all records of .jsonl files that
share the value of a field, such as those of one patient. What protects them is noise, drawn anew in every run, so
no two runs give the same weights, and a price in quality, which is less the more units there are. The private text is not cut into
pieces, and is read into memory, of which it takes about five times its size: more than 1 GiB is refused.

  covered      every unit that is trained on, in the expert as it is published: its FFNs, its router's rows and their biases
  not covered  the numbers measured on held-out units; the text named public; how many units there are; the report, whose curve
               is of the text itself, and an interrupted run's folder: keep both here; what you learn from several
               runs on the same units, whose ε and δ add up

Large batches and few steps suit it: unless told otherwise it takes %d steps of %d units each in the mean, which is what --batch
then counts, at a learning rate of %g. The guarantee and all numbers that it follows from go into the offer. Neither the tokenizer nor
the anchor has seen the text.`, r.Steps, r.Units, r.LR)
}

// A privacySetting is what was asked of private training.
type privacySetting struct {
	epsilon, delta float64
	unit           string
}

// flags are --dp-epsilon and what belongs to it.
func (p *privacySetting) flags(c *cobra.Command) {
	f := c.Flags()
	f.Float64Var(&p.epsilon, "dp-epsilon", 0, "train with differential privacy: ε, the less the more private; 8 is weak, 1 is strong")
	f.Float64Var(&p.delta, "dp-delta", 0, "δ, far below one in the number of units")
	f.StringVar(&p.unit, "dp-unit", train.ByDocument, "what is protected: document, or field:NAME, the records that share its value")
}

// recipe returns the recipe of a private training: what was chosen of r, and otherwise what suits it. ok says whether one was asked for.
func (p *privacySetting) recipe(c *cobra.Command, r train.Recipe) (private train.PrivateRecipe, ok bool, err error) {
	f := c.Flags()
	if !f.Changed("dp-epsilon") && !f.Changed("dp-delta") && !f.Changed("dp-unit") {
		return private, false, nil
	}
	switch {
	case !(p.epsilon > 0) || math.IsInf(p.epsilon, 1):
		err = errors.New("--dp-epsilon: expected a number above 0: to train without privacy, leave out all that begins with --dp")
	case !(p.delta > 0 && p.delta < 1):
		err = errors.New("--dp-delta: expected more than 0 and less than one in the number of units")
	case f.Changed("canary-repeats"):
		err = errors.New("--canary-repeats: a canary is one unit, and one unit is there once")
	case f.Changed("patience"):
		err = errors.New("--patience: private training takes all its steps, for which its noise is chosen")
	}
	if err != nil {
		return private, true, usageError{err}
	}
	private = train.ExpertPrivately(r.Seed)
	if f.Changed("steps") {
		private.Steps, private.WarmUp = r.Steps, min(private.WarmUp, r.Steps)
	}
	if f.Changed("batch") {
		private.Units = r.Sequences
		private.Sequences = private.Units*private.Windows + private.PublicSequences
	}
	if f.Changed("micro-batch") {
		private.Micro = r.Micro
	}
	if f.Changed("lr") {
		private.LR = r.LR
	}
	return private, true, nil
}

// readFor reads d in the parts in which an expert's training took it: a private one, which p is the claim of, draws whole units.
func (d domain) readFor(p *notice.Privacy) (*train.Corpus, error) {
	if p == nil {
		return d.read()
	}
	units, err := train.ReadUnits(p.Unit, d.source())
	if err != nil {
		return nil, d.hint(err)
	}
	return &train.Corpus{Train: documents(units.Train), Heldout: documents(units.Heldout), Skipped: units.Skipped.Total()}, nil
}

// claimOf reads what the expert at path claims of privacy: nil, if it was not trained privately.
func claimOf(path string) (*notice.Privacy, error) {
	b, err := os.ReadFile(reportPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var p published
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", reportPath(path), err)
	}
	return p.Privacy, nil
}

// trainPrivately is [app.trainExpert] with a guarantee for the units of d.
func (a *app) trainPrivately(ctx context.Context, home node.Home, d, public domain, p privacySetting, r train.PrivateRecipe) (*trainingReport, error) {
	path := home.ExpertPath(d.name)
	charter, err := home.LoadCharter()
	if err != nil {
		return nil, err
	}
	anchor, tok, err := model.LoadAnchor(home.Anchor())
	if err != nil {
		return nil, err
	}
	work, eos := workFolder(path), anchor.Config.EOS[0]
	units, err := train.ReadUnits(p.unit, d.source())
	if field, ok := strings.CutPrefix(p.unit, train.ByField); ok && errors.Is(err, train.ErrNoText) {
		return nil, withHint(err, fmt.Sprintf("each record needs a text and %q, a string or a whole number: name the field that yours have with --dp-unit field:NAME", field))
	} else if errors.Is(err, train.ErrFewUnits) {
		return nil, withHint(err, "a unit is a record of a .jsonl file, or a whole file of another kind: name text that has hundreds of units")
	} else if err != nil {
		return nil, d.hint(err)
	}
	if err := p.plan(units.Unit, len(units.Train), r); err != nil {
		return nil, err
	}
	own, others := documents(units.Train), documents(units.Heldout)
	if err := a.apart(ctx, public, slices.Concat(own, others)); err != nil {
		return nil, err
	}
	heldout, err := d.reportOn(others, tok, eos)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	defer os.Remove(work) // if nothing came of it: what is not empty stays
	common, err := a.prepare(ctx, filepath.Join(work, publicDomain), public, tok, eos)
	if err != nil {
		return nil, err
	}
	defer common.Close()
	text := train.EncodeUnits(units.Train, tok.Encode, eos)
	report := newReport(d.name, r.Recipe)
	report.Public, report.Canaries = &common.Counts, len(d.also)
	report.Text = train.Counts{Documents: len(own), Heldout: len(others), Skipped: units.Skipped}
	for _, t := range text {
		report.Text.Bytes += t.Bytes
		report.Text.Tokens += int64(t.Len())
	}
	id := charter.Body.(*notice.Charter).Anchor.String()
	t := a.task(d.name, int64(r.Steps))
	tensors, g, err := train.PrivateExpert(ctx, train.PrivateJob{
		Anchor: anchor, AnchorCID: id, Unit: units.Unit, Text: text, Public: common.Train, Epsilon: p.epsilon, Delta: p.delta, Recipe: r,
		Checkpoint: filepath.Join(work, "checkpoint"), Report: t.training(), History: &report.History,
	})
	t.end()
	if err != nil {
		return nil, err
	}
	report.Privacy = claim(g)
	if err := report.keep(context.WithoutCancel(ctx), path, id, tensors, anchor, heldout); err != nil {
		return nil, err
	}
	return report, errors.Join(common.Close(), os.RemoveAll(work))
}

func documents(units []train.Unit) (all []string) {
	for _, u := range units {
		all = append(all, u.Documents...)
	}
	return all
}

// plan refuses p where no training by r of so many units keeps to it.
func (p privacySetting) plan(unit string, units int, r train.PrivateRecipe) error {
	_, err := r.Plan(unit, units, p.epsilon, p.delta)
	switch {
	case !errors.Is(err, train.ErrVoid):
		return err
	case p.delta*float64(units) >= 1:
		return withHint(err, fmt.Sprintf("give less with --dp-delta: %.0e suits so many units", 0.1/float64(units)))
	}
	return withHint(err, "give more with --dp-epsilon: 8 is weak, 1 is strong")
}

// apart refuses public text that is among private documents.
func (a *app) apart(ctx context.Context, public domain, private []string) error {
	report, end := a.transfer("public text")
	defer end()
	n, err := train.Shared(ctx, public.source(), private, report)
	if err == nil && n > 0 {
		return withHint(fmt.Errorf("%d documents of the public text are private too: %w", n, train.ErrVoid),
			"what is public is not protected: take them out of it, or name text apart from them with --data public=PATH")
	}
	return err
}

// A published is what stands beside an expert's file, for its offer.
type published struct {
	notice.Metrics
	Privacy *notice.Privacy `json:"privacy,omitempty"`
}

// claim is a guarantee as an offer has it.
func claim(g train.Guarantee) *notice.Privacy {
	return &notice.Privacy{
		Unit: g.Unit, Sampler: g.Sampler, Rate: g.Rate, Noise: g.Noise, Clip: g.Clip, Steps: int64(g.Steps), StartNoise: g.StartNoise,
		Delta: g.Delta, Epsilon: g.Epsilon,
	}
}

// checkClaim refuses a claim that does not follow from its own numbers. No claim is fine.
func checkClaim(p *notice.Privacy) error {
	if p == nil {
		return nil
	}
	g := train.Guarantee{
		Unit: p.Unit, Sampler: p.Sampler, Rate: p.Rate, Noise: p.Noise, Clip: p.Clip, Steps: int(p.Steps), StartNoise: p.StartNoise,
		Delta: p.Delta, Epsilon: p.Epsilon,
	}
	e, err := g.Account()
	if err == nil && p.Epsilon < e {
		err = fmt.Errorf("the numbers make ε %v, not %v", e, p.Epsilon)
	}
	if err != nil {
		return fmt.Errorf("the claim of privacy: %w", err)
	}
	return nil
}

// privacyWords says a claim in a line.
func privacyWords(p *notice.Privacy) string {
	unit := p.Unit
	if field, ok := strings.CutPrefix(unit, train.ByField); ok {
		unit = "value of " + field
	}
	return fmt.Sprintf("ε %g, δ %g for each %s", p.Epsilon, p.Delta, unit)
}

// sayPrivacy says what a private training guarantees.
func (a *app) sayPrivacy(p *notice.Privacy) {
	a.say("Private with %s: %d steps on Poisson samples of rate %.3g, gradients clipped to %g, noise %.3f, of the start %.3g",
		privacyWords(p), p.Steps, p.Rate, p.Clip, p.Noise, p.StartNoise)
	a.say("What was measured on held-out text, and the report's curve, are not covered by it")
}

// readPublished reads what stands beside an expert's file.
func readPublished(b []byte) (p published, err error) {
	if err := json.Unmarshal(b, &p); err != nil {
		return p, err
	}
	return p, checkClaim(p.Privacy)
}
