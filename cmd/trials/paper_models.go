package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"chorus/kernels"
	"chorus/model"
	"chorus/model/eval"
	"chorus/model/train"
)

// paperSeed is what was trained for one seed. All of it is made when it is first asked for.
type paperSeed struct {
	*paper
	seed  uint64
	runs  map[string]*training
	parts map[string][]*eval.Prediction // of dense models, by text
}

// recipe is how a model is trained for some steps.
func (s *paperSeed) recipe(steps int, rate float64) train.Recipe {
	return train.Recipe{
		Steps: steps, WarmUp: max(1, steps/20), Sequences: s.scale.sequences, Length: s.scale.length, LR: rate,
		Beta1: 0.9, Beta2: 0.95, Clip: 1, ZLoss: 1e-5, Seed: s.seed, Mixed: kernels.Mixed(),
	}
}

// once returns what make trains under a name, made at most once.
func (s *paperSeed) once(name string, make func() (*training, error)) (*training, error) {
	if t := s.runs[name]; t != nil {
		return t, nil
	}
	t, err := make()
	if err == nil {
		s.runs[name] = t
	}
	return t, err
}

// public is the batch of public text alone.
func (s *paperSeed) public() []train.Share {
	return []train.Share{{Text: s.data.domains[0].train, Sequences: s.scale.sequences}}
}

func everything(_ int, name string) bool { return !isRouter(name) && !isBias(name) }

// anchor is trained on public text from random weights.
func (s *paperSeed) anchor() (*training, error) { return s.anchorOf(ours) }

// renamed is the share of the anchor's windows in which tokens change places.
const renamed = 1. / 8

// anchorOf trains the anchor of a variant.
func (s *paperSeed) anchorOf(v variant) (*training, error) {
	name, r := "anchor", s.recipe(s.scale.anchorSteps, s.scale.anchorRate)
	r.WeightDecay, r.Topic, r.Renamed = 0.1, train.AnchorRecipe(s.seed).Topic, renamed
	if v.noTopic {
		name, r.Topic = name+"-notopic", 0
	}
	if v.noRenaming {
		name, r.Renamed = name+"-norenaming", 0
	}
	return s.once(name, func() (*training, error) {
		a, err := randomAnchor(s.scale.config(s.data.tok.VocabSize(), s.data.eos), s.seed)
		if err != nil {
			return nil, err
		}
		return s.train(name, train.Job{Anchor: a, Trained: everything, Texts: s.public(), Recipe: r}, s.scale.everything(1))
	})
}

// randomAnchor draws first values as [train.Anchor] does.
func randomAnchor(c model.Config, seed uint64) (*model.Anchor, error) {
	rng := rand.New(rand.NewPCG(seed, 1<<63))
	return model.BuildAnchor(c, func(name string, shape ...int) ([]float32, error) {
		w := make([]float32, elements(shape))
		switch {
		case isRouter(name):
		case len(shape) == 1:
			for i := range w {
				w[i] = 1
			}
		default:
			deviation := 1 / math.Sqrt(float64(shape[1]))
			if name == "model.embed_tokens.weight" {
				deviation = 0.5
			}
			fill(w, deviation, rng)
		}
		return w, nil
	})
}

func fill(w []float32, deviation float64, rng *rand.Rand) {
	for i := range w {
		w[i] = float32(rng.NormFloat64() * deviation)
	}
}

// control is the anchor, trained on for the compute of all experts on public text.
func (s *paperSeed) control() (*training, error) {
	return s.once("control", func() (*training, error) {
		a, err := s.anchor()
		if err != nil {
			return nil, err
		}
		sc := s.scale
		steps := int(s.membersFLOPs() / sc.stepFLOPs(1, sc.sequences, sc.everything(1)))
		r := s.recipe(steps, sc.wholeRate)
		r.WeightDecay = 0.1
		return s.train("control", train.Job{Anchor: a.anchor(), Trained: everything, Texts: s.public(), Recipe: r}, sc.everything(1), a.key)
	})
}

// membersFLOPs is the compute of all experts.
func (p *paper) membersFLOPs() float64 {
	s := p.scale
	return float64((len(p.data.domains)-1)*s.expertSteps) * s.stepFLOPs(2, s.sequences, s.ffnWeights())
}

// A denseKind is which dense models are meant.
type denseKind int

const (
	whole        denseKind = iota // all of each is trained, on as much of the member's text as its expert
	wholeCompute                  // and for the compute of its expert
	ffnAlone                      // the FFN is trained, which is what members put together in FlexOlmo, on as much of the member's text
)

// dense is the anchor trained on a member's text alone. Domain 0 is the anchor itself.
func (s *paperSeed) dense(kind denseKind, domain int) (*training, error) {
	if domain == 0 {
		return s.anchor()
	}
	d, sc := s.data.domains[domain], s.scale
	name, trained, weights, rate, steps := "dense-"+d.name, everything, sc.everything(1), sc.wholeRate, sc.denseSteps()
	switch kind {
	case wholeCompute:
		steps = int(s.membersFLOPs() / float64(len(s.data.domains)-1) / sc.stepFLOPs(1, sc.sequences, weights))
	case ffnAlone:
		name, trained, weights = "ffn-"+d.name, func(_ int, name string) bool { return isPublicFFN(name) }, sc.ffnWeights()
		rate = sc.expertRate
	}
	return s.once(fmt.Sprint(kind, name), func() (*training, error) {
		a, err := s.anchor()
		if err != nil {
			return nil, err
		}
		return s.train(name, train.Job{
			Anchor: a.anchor(), Trained: trained, Texts: []train.Share{{Text: d.train, Sequences: sc.sequences}}, Recipe: s.recipe(steps, rate),
		}, weights, a.key)
	})
}

// denses are the anchor and all dense models.
func (s *paperSeed) denses(kind denseKind) (all []*training, err error) {
	for i := range s.data.domains {
		t, err := s.dense(kind, i)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// A variant is a way to train experts: how ours are, or with some things changed.
type variant struct {
	name       string
	noBias     bool
	randomRows bool
	alone      bool // without the frozen public FFN beside it
	noGuide    bool // nothing says which slot a token's text is of
	noSplicing bool // the window of passages by turns is one more of its own text
	noTopic    bool // the anchor was not taught topics
	noRenaming bool // the anchor saw no window in other tokens
	meanRows   bool // the rows start as mean hidden states, unscaled, the biases at zero, and both learn no faster than the rest
	noPublic   bool // no text is public
}

// The expert that chorus trains, and that of the paper.
var (
	ours    = variant{name: "expert"}
	asPaper = variant{name: "paper", noGuide: true, noSplicing: true, noTopic: true, noRenaming: true, meanRows: true, noPublic: true}
)

// expert trains a variant of the expert of a domain.
func (s *paperSeed) expert(v variant, domain int) (*training, error) {
	d := s.data.domains[domain]
	name := v.name + "-" + d.name
	return s.once(name, func() (*training, error) {
		a, err := s.anchorOf(v)
		if err != nil {
			return nil, err
		}
		sc := s.scale
		r, like := s.recipe(sc.expertSteps, sc.expertRate), train.ExpertRecipe(s.seed)
		r.RouterZLoss, r.RouterRate, r.Guide = like.RouterZLoss, like.RouterRate, like.Guide
		r.PublicSequences, r.SplicedSequences = sc.publicSequences, sc.splicedSequences
		if v.noGuide {
			r.Guide = 0
		}
		if v.noSplicing {
			r.SplicedSequences = 0
		}
		if v.noPublic {
			r.PublicSequences = 0
		}
		if v.meanRows {
			r.RouterRate = 1
		}
		job := train.ExpertJob{Anchor: a.anchor(), Text: d.train, Public: s.data.domains[0].train, Recipe: r}
		start, err := job.Start()
		if err != nil {
			return nil, err
		}
		rng := rand.New(rand.NewPCG(s.seed, hash(name)))
		for l, row := range start.Router {
			switch {
			case v.randomRows:
				fill(row, 1/math.Sqrt(float64(sc.hidden)), rng)
				start.Bias[l][0] = 0
			case v.meanRows:
				s.meanRow(row, a.mixture, l, d.train)
				start.Bias[l][0] = 0
			}
			if v.noBias {
				start.Bias[l][0] = 0
			}
		}
		if v.alone {
			t, err := s.dense(ffnAlone, domain)
			if err != nil {
				return nil, err
			}
			start.FFN = t.anchor().Public.FFN
			return &training{t.key, model.NewMixture(a.anchor(), start), t.flops, t.seconds}, nil
		}
		texts := []train.Share{{Text: d.train, Sequences: sc.sequences - r.PublicSequences - r.SplicedSequences, Slot: 1}}
		if r.PublicSequences+r.SplicedSequences > 0 {
			texts = append(texts, train.Share{Text: s.data.domains[0].train, Sequences: r.PublicSequences})
		}
		return s.train(name, train.Job{
			Anchor: a.anchor(), Experts: []*model.Expert{start}, Texts: texts, Recipe: r,
			Trained: func(slot int, name string) bool {
				return slot == 1 && !(isBias(name) && v.noBias)
			},
		}, sc.ffnWeights(), a.key)
	})
}

// meanRow stores in row what layer l's router reads of some of a text, in the mean, less the same of public text: the softmax is that of the mean
// of each, since the anchor's own row is zero.
func (s *paperSeed) meanRow(row []float32, m *model.Mixture, l int, text *train.Tokens) {
	clear(row)
	for i, t := range []*train.Tokens{text, s.data.domains[0].train} {
		sign := float32(1 - 2*i)
		var pass model.Pass
		rows := min(24, len(t.IDs)/s.scale.length) * s.scale.length
		m.ForwardToHead(&pass, t.IDs[:rows], rows/s.scale.length, s.scale.length)
		for r := range rows {
			kernels.Axpy(row, sign/float32(rows), pass.Layers[l].Hidden[r*len(row):][:len(row)])
		}
	}
}

// flexOlmo is the mixture of the anchor and all experts of a variant. Its parts are those trainings.
func (s *paperSeed) flexOlmo(v variant) (m *model.Mixture, parts []*training, err error) {
	a, err := s.anchorOf(v)
	if err != nil {
		return nil, nil, err
	}
	var experts []*model.Expert
	for i := range s.data.domains[1:] {
		t, err := s.expert(v, i+1)
		if err != nil {
			return nil, nil, err
		}
		parts, experts = append(parts, t), append(experts, t.expert())
	}
	return model.NewMixture(a.anchor(), experts...), parts, nil
}

func keys(all []*training) (k []string) {
	for _, t := range all {
		k = append(k, t.key)
	}
	return k
}

// experts returns those of a mixture.
func expertsOf(m *model.Mixture) (all []*model.Expert) {
	for _, slot := range m.Slots[1:] {
		all = append(all, &model.Expert{Slot: *slot})
	}
	return all
}

// upcycled returns an expert for each domain but the public one, with FFNs that ffn gives and router rows drawn at random.
func (s *paperSeed) upcycled(name string, ffn func(domain int) []model.FFN) (experts []*model.Expert) {
	rng := rand.New(rand.NewPCG(s.seed, hash(name)))
	for i := range s.data.domains[1:] {
		e := &model.Expert{Slot: model.Slot{FFN: ffn(i + 1)}}
		for range s.scale.layers {
			row := make([]float32, s.scale.hidden)
			fill(row, 0.3/math.Sqrt(float64(s.scale.hidden)), rng)
			e.Router, e.Bias = append(e.Router, row), append(e.Bias, []float32{0})
		}
		experts = append(experts, e)
	}
	return experts
}

// btx is the mixture of the dense models' FFNs, the rest being the average of theirs, trained on public text for a quarter of the experts' compute
// (Sukhbaatar et al. 2024, arXiv 2403.07816; FlexOlmo, section 4.2).
func (s *paperSeed) btx() (*training, error) {
	return s.once("btx", func() (*training, error) {
		all, err := s.denses(whole)
		if err != nil {
			return nil, err
		}
		soup, err := uniformSoup(all)
		if err != nil {
			return nil, err
		}
		soup.Public.FFN = all[0].anchor().Public.FFN
		experts := s.upcycled("btx", func(domain int) []model.FFN { return all[domain].anchor().Public.FFN })
		sc := s.scale
		per := sc.stepFLOPs(len(all), sc.sequences, sc.everything(len(all)))
		return s.train("btx", train.Job{
			Anchor: soup, Experts: experts, Trained: func(_ int, name string) bool { return !isBias(name) }, Texts: s.public(),
			Recipe: s.recipe(int(s.membersFLOPs()/4/per), sc.wholeRate),
		}, sc.everything(len(all)), keys(all)...)
	})
}

func uniformSoup(all []*training) (*model.Anchor, error) {
	weights := slices.Repeat([]float64{1 / float64(len(all))}, len(all))
	return eval.Soup(anchorsOf(all), weights)
}

func anchorsOf(all []*training) (anchors []*model.Anchor) {
	for _, t := range all {
		anchors = append(anchors, t.anchor())
	}
	return anchors
}

// unrestricted is one mixture of as many slots, made of copies of the anchor's FFN, all of which is trained on all data pooled, for so many times
// the experts' compute.
func (s *paperSeed) unrestricted(times int) (*training, error) {
	name := fmt.Sprintf("unrestricted-%dx", times)
	return s.once(name, func() (*training, error) {
		a, err := s.anchor()
		if err != nil {
			return nil, err
		}
		sc, slots := s.scale, len(s.data.domains)
		steps := float64(times) * s.membersFLOPs() / sc.stepFLOPs(slots, sc.sequences, sc.everything(slots))
		experts := s.upcycled("unrestricted", func(int) []model.FFN { return a.anchor().Public.FFN })
		return s.train(name, train.Job{
			Anchor: a.anchor(), Experts: experts, Trained: func(_ int, name string) bool { return !isBias(name) },
			Texts: []train.Share{{Text: s.data.pooled, Sequences: sc.sequences}}, Recipe: s.recipe(int(steps), sc.unrestrictedRate),
		}, sc.everything(slots), a.key)
	})
}

// proxyShare is how much of public text stands for each domain in router tuning.
const proxyShare = 20 // one document in so many

// tuned is FlexOlmo with its router rows trained further, on documents of public text that a classifier finds most like each domain, and on
// public text, for a tenth of the experts' compute (section 3.3.3).
func (s *paperSeed) tuned() (*training, error) {
	return s.once("tuned", func() (*training, error) {
		m, parts, err := s.flexOlmo(ours)
		if err != nil {
			return nil, err
		}
		sc, slots := s.scale, len(s.data.domains)
		texts := []train.Share{{Text: s.data.domains[0].train, Sequences: 1}}
		for i := range s.data.domains[1:] {
			t := s.data.proxy(i + 1)
			texts = append(texts, train.Share{Text: t, Sequences: 1})
		}
		per := sc.stepFLOPs(slots, slots, 0)
		r := s.recipe(max(1, int(s.membersFLOPs()/10/per)), sc.tuneRate)
		r.Sequences, r.RouterZLoss = slots, 1e-3
		return s.train("tuned", train.Job{
			Anchor: m.Anchor, Experts: expertsOf(m), Trained: func(_ int, name string) bool { return isRouter(name) }, Texts: texts, Recipe: r,
		}, 0, keys(parts)...)
	})
}

// proxy returns the public documents that are most like those of a domain.
func (d *paperData) proxy(domain int) *train.Tokens {
	type candidate struct {
		doc  string
		odds float64
	}
	var all []candidate
	for _, doc := range d.domains[0].documents {
		var ids []int32
		for _, id := range d.tok.Encode(doc) {
			ids = append(ids, int32(id))
		}
		all = append(all, candidate{doc, d.classifier.Odds(ids, domain, 0)})
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if a.odds > b.odds {
			return -1
		} else if a.odds < b.odds {
			return 1
		}
		return 0
	})
	var docs []string
	for _, c := range all[:max(1, len(all)/proxyShare)] {
		docs = append(docs, c.doc)
	}
	t := train.Encode(docs, d.tok.Encode, d.eos, 0)
	d.digests[t] = digest(t.IDs)
	return t
}

// compressed is FlexOlmo of experts that were compressed to a rank.
func (s *paperSeed) compressed(rank int) (*model.Mixture, []*training, error) {
	m, parts, err := s.flexOlmo(ours)
	if err != nil {
		return nil, nil, err
	}
	var low []*model.Expert
	for i, t := range parts {
		at := filepath.Join(s.dir, "runs", fmt.Sprintf("blob-%s-%s", s.data.domains[i+1].name, t.key))
		path := fmt.Sprintf("%s-r%d", at, rank)
		e, err := model.LoadExpert(path, m.Anchor)
		if err != nil {
			var tensors []model.Tensor
			if _, err := model.BuildExpert(m.Anchor.Config, func(name string, shape ...int) ([]float32, error) {
				v, err := t.expert().Tensors().Source(name, shape...)
				tensors = append(tensors, model.Tensor{Name: name, Shape: shape, Values: v})
				return v, err
			}); err != nil {
				return nil, nil, err
			}
			if err := model.SaveExpert(at, "", tensors); err != nil {
				return nil, nil, err
			}
			full, err := model.LoadExpert(at, m.Anchor)
			if err != nil {
				return nil, nil, err
			}
			if err := model.CompressExpert(s.ctx, path, full, m.Anchor, rank, nil); err != nil {
				return nil, nil, err
			}
			if e, err = model.LoadExpert(path, m.Anchor); err != nil {
				return nil, nil, err
			}
		}
		low = append(low, e)
	}
	return model.NewMixture(m.Anchor, low...), parts, nil
}
