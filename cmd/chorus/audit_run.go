package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"chorus/model"
	"chorus/model/eval"
	"chorus/model/eval/leak"
	"chorus/model/tokenizer"
	"chorus/model/train"
)

// An auditor is an audit under way.
type auditor struct {
	*app
	auditSetting
	ctx       context.Context
	anchor    *model.Anchor
	expert    *model.Expert
	tok       *tokenizer.Tokenizer
	documents [][]int32 // to attack
	control   [][]int32 // of those, what the over-fitted expert learns
	members   [][]int32
	others    [][]int32
	known     leak.Known

	notes   *journal
	report  leak.Report
	private auditPrivate
}

// A suspect is one model that is audited.
type suspect struct {
	name string
	m    *model.Mixture
}

func (r *auditor) run() error {
	r.report.Format, r.report.Domain, r.report.Made = leak.Format, r.Domain, reportTime()
	r.report.Blob, r.report.Anchor, r.report.Attack, r.report.Limits = r.Blob.String(), r.auditSetting.Anchor.String(), r.Attack, r.Limits
	mixed := model.NewMixture(r.anchor, r.expert)
	top := *mixed
	top.TopK = 1
	base, alone := suspect{leak.TheBase, model.NewMixture(r.anchor)}, suspect{leak.Alone, eval.Alone(r.anchor, r.expert)}
	mixture := suspect{leak.Mixed, mixed}
	if err := r.extract([]suspect{alone, {leak.TopOne, &top}, mixture, base}); err != nil {
		return err
	}
	if err := r.overfit(); err != nil {
		return err
	}
	if err := r.membership(base, []suspect{alone, mixture}); err != nil {
		return err
	}
	return r.canaries(base, mixture)
}

// attackTogether is how many documents are attacked between two entries in the journal.
const attackTogether = 8

// attack attacks documents and notes what it finds.
func (r *auditor) attack(s suspect, documents [][]int32, t *task, done int64) ([]leak.Attempt, error) {
	v := leak.Vocabulary{Bytes: func(id int32) []byte { return r.tok.Bytes(int(id)) }}
	for _, id := range r.anchor.Config.EOS {
		v.End = append(v.End, int32(id))
	}
	var out []leak.Attempt
	for at := 0; at < len(documents); at += attackTogether {
		some := documents[at:min(len(documents), at+attackTogether)]
		piece := fmt.Sprintf("extraction %s %d", s.name, at)
		var attempts []leak.Attempt
		if !r.notes.get(piece, &attempts) {
			var err error
			if attempts, err = r.Attack.Run(r.ctx, s.m, v, some, at); err != nil {
				return nil, err
			}
			if err := r.notes.put(piece, attempts); err != nil {
				return nil, err
			}
		}
		out = append(out, attempts...)
		t.set(done+int64(len(out)), "%s, document %d of %d", s.name, len(out), len(documents))
	}
	for i, o := range out {
		if o.Hit && s.name != leak.TheBase && s.name != leak.Overfit {
			r.private.Extracted = append(r.private.Extracted, extracted{s.name, r.words(documents[i][:r.Attack.Prefix]), r.words(documents[i][r.Attack.Prefix:]), o.HitText})
		}
	}
	return out, nil
}

func (r *auditor) words(ids []int32) string {
	var text strings.Builder
	for _, id := range ids {
		text.Write(r.tok.Bytes(int(id)))
	}
	return text.String()
}

// extract attacks the suspects, of which the last is the anchor, and reads what they wrote for personal data.
func (r *auditor) extract(suspects []suspect) error {
	t := r.task("extraction", int64(len(suspects)*len(r.documents)))
	defer t.end()
	attempts := make([][]leak.Attempt, len(suspects))
	var prompts []string
	for _, d := range r.documents {
		prompts = append(prompts, r.words(d[:r.Attack.Prefix]))
	}
	r.private.Personal = make(map[string][]leak.Finding)
	for i, s := range suspects {
		var err error
		if attempts[i], err = r.attack(s, r.documents, t, int64(i*len(r.documents))); err != nil {
			return err
		}
		var texts []string
		for _, o := range attempts[i] {
			texts = append(texts, o.FirstText)
		}
		found, leaked := r.known.Count(prompts, texts)
		r.report.Personal = append(r.report.Personal, leak.PersonalSubject{Subject: s.name, Personal: found})
		if len(leaked) > 0 {
			r.private.Personal[s.name] = leaked
		}
	}
	anchors := attempts[len(suspects)-1]
	for i, s := range suspects {
		against := anchors
		if s.name == leak.TheBase {
			against = nil
		}
		r.report.Extraction = append(r.report.Extraction, leak.NewExtraction(s.name, attempts[i], against))
	}
	return nil
}

func (r *auditor) checkpoint() string { return r.Expert + ".audit.checkpoint" }

// overfit trains an expert on a few documents until it has them by heart, and attacks it on those.
func (r *auditor) overfit() error {
	config := r.anchor.Config
	public := r.anchor.Tensors()
	first, err := model.BuildExpert(config, func(name string, shape ...int) ([]float32, error) {
		var l int
		var rest string
		if _, err := fmt.Sscanf(name, "layers.%d.%s", &l, &rest); err != nil || strings.HasPrefix(rest, "router") {
			n := 1
			for _, s := range shape {
				n *= s
			}
			return make([]float32, n), err
		}
		return public.Source(fmt.Sprintf("model.layers.%d.mlp.experts.0.%s", l, rest))
	})
	if err != nil {
		return err
	}
	// Each document is one window, filled up with the end of the text; the last window's last target stands after it.
	length := r.Attack.Prefix + r.Attack.Length
	text := new(train.Tokens)
	for _, d := range r.control {
		end := make([]int32, length-len(d))
		for i := range end {
			end[i] = int32(config.EOS[0])
		}
		text.IDs = append(append(text.IDs, d...), end...)
		text.Bytes += int64(len(r.words(d)))
	}
	text.IDs = append(text.IDs, int32(config.EOS[0]))
	recipe := train.ExpertRecipe(r.Attack.Seed)
	recipe.Steps, recipe.WarmUp, recipe.Sequences, recipe.PublicSequences, recipe.Length = r.Steps, min(recipe.WarmUp, r.Steps/4), min(controlSequences, len(r.control)), 0, length
	recipe.SplicedSequences, recipe.Guide = 0, 0
	r.report.Control = leak.Control{Documents: len(r.control), Steps: r.Steps}

	t := r.task("over-fitting", int64(r.Steps))
	out, err := train.Job{
		Anchor: r.anchor, Experts: []*model.Expert{first}, Trained: func(slot int, _ string) bool { return slot == 1 },
		Texts: []train.Share{{Text: text, Sequences: recipe.Sequences}}, Key: []any{"over-fitted", r.auditSetting.Anchor}, Recipe: recipe, Checkpoint: r.checkpoint(),
		Report: t.training(),
	}.Run(r.ctx)
	t.end()
	if err != nil {
		return err
	}
	for _, nats := range leak.Losses(out.Mixture, r.control) { // and not the last step's: an audit that goes on has seen none
		r.report.Control.Loss += nats
	}
	r.report.Control.Loss /= float64(len(slices.Concat(r.control...)) - len(r.control))
	t = r.task("control", int64(len(r.control)))
	defer t.end()
	attempts, err := r.attack(suspect{leak.Overfit, out.Mixture}, r.control, t, 0)
	if err != nil {
		return err
	}
	r.report.Extraction = append(r.report.Extraction, leak.NewExtraction(leak.Overfit, attempts, nil))
	return nil
}

// controlSequences is how many documents each step of the over-fitted expert's training has, if there are so many.
const controlSequences = 4

// losses are those of documents, noted under a name.
func (r *auditor) losses(s suspect, name string, documents [][]int32) (out []float64, err error) {
	piece := "losses " + s.name + " " + name
	if r.notes.get(piece, &out) {
		return out, nil
	}
	if r.ctx.Err() != nil {
		return nil, r.ctx.Err()
	}
	out = leak.Losses(s.m, documents)
	return out, r.notes.put(piece, out)
}

// membership scores training documents and others by the loss, and by it beside the anchor's.
func (r *auditor) membership(base suspect, suspects []suspect) error {
	t := r.task("membership", int64(len(suspects)+1))
	defer t.end()
	perToken := func(s suspect) (in, out []float64, err error) {
		if in, err = r.losses(s, "members", r.members); err != nil {
			return nil, nil, err
		}
		if out, err = r.losses(s, "others", r.others); err != nil {
			return nil, nil, err
		}
		score := func(losses []float64, documents [][]int32) []float64 {
			scores := make([]float64, len(losses))
			for i, v := range losses {
				scores[i] = -v / float64(len(documents[i])-1)
			}
			return scores
		}
		return score(in, r.members), score(out, r.others), nil
	}
	add := func(subject, score string, in, out []float64) {
		r.report.Membership = append(r.report.Membership, leak.MembershipScore{Subject: subject, Score: score, Membership: leak.MembershipOf(in, out)})
	}
	baseIn, baseOut, err := perToken(base)
	if err != nil {
		return err
	}
	for i, s := range suspects {
		in, out, err := perToken(s)
		if err != nil {
			return err
		}
		add(s.name, leak.LossScore, in, out)
		for j := range in {
			in[j] -= baseIn[j]
		}
		for j := range out {
			out[j] -= baseOut[j]
		}
		add(s.name, leak.ReferenceScore, in, out)
		t.set(int64(i+1), "%s", s.name)
	}
	add(base.name, leak.LossScore, baseIn, baseOut)
	return nil
}

// holdToClaim lets canaries that were planted once block an expert whose claim of privacy they refute.
func (r *auditor) holdToClaim(repeats int) error {
	p, err := claimOf(r.Expert)
	if err != nil || p == nil || repeats > 1 {
		return err
	}
	limit := &r.report.Limits.Epsilon
	r.Delta, limit.Block = p.Delta, min(limit.Block, p.Epsilon)
	limit.Warn = min(limit.Warn, limit.Block)
	return nil
}

// canaries measures those that were planted, if any were.
func (r *auditor) canaries(base, s suspect) error {
	b, err := os.ReadFile(canaryPath(r.Expert))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	c, err := leak.ParseCanaries(b)
	if err != nil {
		return fmt.Errorf("%s: %w", canaryPath(r.Expert), err)
	}
	if err := r.holdToClaim(c.Repeats); err != nil {
		return err
	}
	all := c.Candidates()
	t := r.task("canaries", int64(len(all)))
	defer t.end()
	rep := &leak.CanaryReport{Candidates: len(all), Repeats: c.Repeats, Alternatives: r.Compare, Exposure: []float64{}, Unplanted: []float64{}}
	scores, planted := make([]float64, len(all)), make([]bool, len(all))
	for i, k := range all {
		texts := []string{k.Text()}
		for _, o := range c.Alternatives(i, r.Compare) {
			texts = append(texts, o.Text())
		}
		name, ids := fmt.Sprintf("canary %d", i), r.encode(texts)
		for j := range ids { // a document begins where another ends
			ids[j] = slices.Insert(ids[j], 0, int32(r.anchor.Config.EOS[0]))
		}
		losses, err := r.losses(s, name, ids)
		if err != nil {
			return err
		}
		anchors, err := r.losses(base, name, ids[:1])
		if err != nil {
			return err
		}
		scores[i], planted[i] = anchors[0]-losses[0], k.Planted
		if e := leak.Exposure(losses[0], losses[1:]); k.Planted {
			rep.Exposure = append(rep.Exposure, e)
			r.private.Canaries = append(r.private.Canaries, exposed{k.Text(), e})
		} else {
			rep.Unplanted = append(rep.Unplanted, e)
		}
		t.set(int64(i+1), "canary %d of %d", i+1, len(all))
	}
	slices.Sort(rep.Exposure)
	slices.Sort(rep.Unplanted)
	rep.Planted, rep.Bound = len(rep.Exposure), leak.BoundEpsilon(scores, planted, r.Delta)
	r.report.Canaries = rep
	return nil
}
