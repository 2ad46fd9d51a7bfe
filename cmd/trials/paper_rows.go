package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/durable"
	"chorus/kernels"
	"chorus/model"
	"chorus/model/eval"
)

// A paperScore is how well a text is predicted.
type paperScore struct {
	Bits     float64 `json:"bits_per_byte"`
	Accuracy float64 `json:"accuracy"` // the share of tokens that were the likeliest
}

// A paperRow is one model of the table.
type paperRow struct {
	Name               string
	Scores             map[string]paperScore // by text
	Parameters, Active int64
	FLOPs, Seconds     float64 // of training, beyond the anchor's
}

// A paperRowKind says how a row is made.
type paperRowKind struct {
	name, what string
	core       bool    // trained for every seed
	units      float64 // of training, in experts' compute, that no row above it needs
	make       func(*paperSeed) ([]paperRow, error)
}

// The names of rows that claims are about.
const (
	rowAnchor, rowFlexOlmo, rowBTM, rowUnrestricted = "anchor", "FlexOlmo", "BTM", "unrestricted 1×"
	rowNoBias, rowRandomRows, rowNoCoordination     = "− bias", "− router rows", "− coordination"
	rowNoGuide, rowNoSplicing, rowNoTopic, rowPaper = "− guide", "− splicing", "− topic", "as in the paper"
	rowNoRenaming                                   = "− renaming"
	rowAverage, rowWeighted, rowRouting             = "soup, average", "soup, weighted", "prompt routing"
	rowTop1, rowTop2, rowBTX                        = "BTM, top 1", "BTM, top 2", "BTX"
	rowProbabilities                                = "BTM, probabilities"
	rowFFNs, rowFFNProbabilities                    = "FFNs alone, BTM", "FFNs alone, BTM, probabilities"
	rowCompute, rowComputeProbabilities             = "BTM, experts' compute", "BTM, experts' compute, probabilities"
)

var paperRowKinds = []paperRowKind{
	{"anchor", "the public anchor", true, 0, func(s *paperSeed) ([]paperRow, error) {
		a, err := s.anchor()
		if err != nil {
			return nil, err
		}
		row, err := s.mixtureRow(rowAnchor, a.mixture, a)
		row.FLOPs, row.Seconds = a.flops, a.seconds
		return []paperRow{row}, err
	}},
	{"control", "the anchor trained on for the experts' compute on public text", true, 1, one("anchor, continued", (*paperSeed).control)},
	{"experts", "each member's dense model: the anchor, all of it trained on the member's text", true, 0.45,
		memberRows("expert alone: ", func(s *paperSeed, i int) (*training, error) { return s.dense(whole, i) })},
	{"soup", "the average of the dense models' weights, and of weights by each input's likelihood", true, 0, soupRows},
	{"btm", "Branch-Train-Merge: their logits averaged, weighted by their losses on each input; top 1, top 2, all; and all, probabilities averaged", true, 0, branchRows},
	{"routing", "each window to the dense model that a classifier of its input's tokens names", true, 0, routingRow},
	{"btx", "Branch-Train-MiX: their FFNs as a mixture, the rest averaged, then trained on public text", true, 0.25, one(rowBTX, (*paperSeed).btx)},
	{"flexolmo", "the anchor and the experts, put together", true, 1, variantRow(rowFlexOlmo, ours)},
	{"pairs", "each expert beside the public FFN alone, as it was trained", false, 0,
		memberRows("public and ", func(s *paperSeed, i int) (*training, error) { return s.expert(ours, i) })},
	{"ffn", "Branch-Train-Merge of models of which the FFN alone was trained", false, 0.4, func(s *paperSeed) ([]paperRow, error) {
		return s.branches(ffnAlone, []string{rowFFNs, rowFFNProbabilities}, eval.Branching{}, eval.Branching{Probabilities: true})
	}},
	{"btm-compute", "Branch-Train-Merge of dense models trained for an expert's compute", false, 1, func(s *paperSeed) ([]paperRow, error) {
		return s.branches(wholeCompute, []string{rowCompute, rowComputeProbabilities}, eval.Branching{}, eval.Branching{Probabilities: true})
	}},
	{"no-coordination", "FlexOlmo of FFNs trained without the public one beside them: those models'", false, 0,
		variantRow(rowNoCoordination, variant{name: "alone", alone: true})},
	{"no-bias", "FlexOlmo of experts without a bias", false, 1, variantRow(rowNoBias, variant{name: "nobias", noBias: true})},
	{"random-rows", "FlexOlmo of experts whose router rows start at random", false, 1, variantRow(rowRandomRows, variant{name: "randomrows", randomRows: true})},
	{"no-guide", "FlexOlmo of experts whose routers are not taught which text is whose", false, 1, variantRow(rowNoGuide, variant{name: "noguide", noGuide: true})},
	{"no-splicing", "FlexOlmo of experts that see no window of passages by turns", false, 1, variantRow(rowNoSplicing, variant{name: "nosplicing", noSplicing: true})},
	{"no-topic", "FlexOlmo on an anchor that was not taught topics", false, 1, variantRow(rowNoTopic, variant{name: "notopic", noTopic: true})},
	{"no-renaming", "FlexOlmo on an anchor that saw no window in other tokens", false, 1, variantRow(rowNoRenaming, variant{name: "norenaming", noRenaming: true})},
	{"paper", "FlexOlmo without any of these, whose rows start as mean hidden states and see no public text", false, 1, variantRow(rowPaper, asPaper)},
	{"tuned", "FlexOlmo with router tuning on proxies", false, 0.1, one("FlexOlmo + router tuning", (*paperSeed).tuned)},
	{"rank", "FlexOlmo of experts of low rank", false, 0, rankRows},
	{"unrestricted", "one mixture of as many slots trained on all data for the experts' compute", true, 1, one(rowUnrestricted, func(s *paperSeed) (*training, error) { return s.unrestricted(1) })},
	{"unrestricted-2x", "and for twice that", false, 2, one("unrestricted 2×", func(s *paperSeed) (*training, error) { return s.unrestricted(2) })},
	{"figures", "each expert left out; of the first seed also k from 1 to all, and experts added one by one", true, 0, nil},
}

// scores evaluates on all held-out texts, unless that was done before. What predicts them, key determines.
func (s *paperSeed) scores(name, key string, predict func(*paperText) (*eval.Prediction, error)) (map[string]paperScore, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s", name, key)
	for _, t := range s.data.heldout {
		io.WriteString(h, t.digest)
	}
	path := filepath.Join(s.dir, "scores", fmt.Sprintf("%x.json", h.Sum(nil)[:10]))
	scores := make(map[string]paperScore)
	if b, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(b, &scores); err != nil {
			return nil, fmt.Errorf("%s: %w: remove the file to evaluate again", path, err)
		}
	}
	for _, t := range s.data.heldout {
		if _, ok := scores[t.name]; ok {
			continue
		}
		if s.ctx.Err() != nil {
			return nil, s.ctx.Err()
		}
		s.progress.evaluating(name)
		p, err := predict(t)
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w", name, t.name, err)
		}
		scores[t.name] = paperScore{p.BitsPerByte(len(t.ids), t.bytes), p.Accuracy()}
		if err := durable.WriteFile(path, func(w io.Writer) error { return json.NewEncoder(w).Encode(scores) }); err != nil {
			return nil, err
		}
	}
	return scores, nil
}

// of returns how to predict with a mixture, in the arithmetic that it was trained in.
func (s *paperSeed) of(m *model.Mixture) func(*paperText) (*eval.Prediction, error) {
	mixed := s.inPrecision(m)
	return func(t *paperText) (*eval.Prediction, error) {
		return eval.Predict(mixed, t.ids, s.scale.length, s.scale.input())
	}
}

// inPrecision returns m in the arithmetic that models are trained in.
func (s *paperSeed) inPrecision(m *model.Mixture) *model.Mixture {
	if kernels.Mixed() {
		return m.Mixed()
	}
	return m
}

// mixtureRow is the row of a mixture that was made of those trainings.
func (s *paperSeed) mixtureRow(name string, m *model.Mixture, made ...*training) (row paperRow, err error) {
	row = paperRow{Name: name}
	row.Parameters = m.Anchor.Parameters()
	for _, e := range expertsOf(m) {
		row.Parameters += expertParameters(e)
	}
	row.Active = row.Parameters
	for _, t := range made {
		row.FLOPs, row.Seconds = row.FLOPs+t.flops, row.Seconds+t.seconds
	}
	row.Scores, err = s.scores(name, fmt.Sprint(keys(made), m.TopK), s.of(m))
	return row, err
}

// expertParameters counts an expert's own, low ranks as their factors.
func expertParameters(e *model.Expert) (n int64) {
	for l, f := range e.FFN {
		for _, p := range []model.Projection{f.Gate, f.Up, f.Down} {
			if r := p.Rank(); r > 0 {
				n += int64(r * (p.In + p.Out))
			} else {
				n += int64(p.In * p.Out)
			}
		}
		n += int64(len(e.Router[l]) + len(e.Bias[l]))
	}
	return n
}

// one is the row of one training.
func one(name string, make func(*paperSeed) (*training, error)) func(*paperSeed) ([]paperRow, error) {
	return func(s *paperSeed) ([]paperRow, error) {
		t, err := make(s)
		if err != nil {
			return nil, err
		}
		row, err := s.mixtureRow(name, t.mixture, t)
		if name == rowBTX {
			all, err := s.denses(whole)
			if err != nil {
				return nil, err
			}
			row.spent(all[1:])
		}
		if strings.HasPrefix(name, rowFlexOlmo) {
			_, parts, err := s.flexOlmo(ours)
			if err != nil {
				return nil, err
			}
			row.spent(parts)
		}
		return []paperRow{row}, err
	}
}

func (r *paperRow) spent(on []*training) {
	for _, t := range on {
		r.FLOPs, r.Seconds = r.FLOPs+t.flops, r.Seconds+t.seconds
	}
}

func variantRow(name string, v variant) func(*paperSeed) ([]paperRow, error) {
	return func(s *paperSeed) ([]paperRow, error) {
		m, parts, err := s.flexOlmo(v)
		if err != nil {
			return nil, err
		}
		row, err := s.mixtureRow(name, m, parts...)
		return []paperRow{row}, err
	}
}

// memberRows are the rows of a training for each member.
func memberRows(what string, train func(s *paperSeed, member int) (*training, error)) func(*paperSeed) ([]paperRow, error) {
	return func(s *paperSeed) (rows []paperRow, err error) {
		for i, d := range s.data.domains[1:] {
			t, err := train(s, i+1)
			if err != nil {
				return nil, err
			}
			row, err := s.mixtureRow(what+d.name, t.mixture, t)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
		return rows, nil
	}
}

// predictions are what the dense models predict of a text, the anchor first.
func (s *paperSeed) predictions(kind denseKind, t *paperText) ([]*eval.Prediction, error) {
	at := fmt.Sprint(kind, t.digest)
	if p := s.parts[at]; p != nil {
		return p, nil
	}
	all, err := s.denses(kind)
	if err != nil {
		return nil, err
	}
	var parts []*eval.Prediction
	for _, d := range all {
		if s.ctx.Err() != nil {
			return nil, s.ctx.Err()
		}
		p, err := s.of(d.mixture)(t)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	s.parts[at] = parts
	return parts, nil
}

// mergedRow is the row of a way to merge the dense models. What else determines it than those is in also.
func (s *paperSeed) mergedRow(kind denseKind, name string, predict func(*paperText) (*eval.Prediction, error), also ...any) (row paperRow, err error) {
	all, err := s.denses(kind)
	if err != nil {
		return row, err
	}
	row = paperRow{Name: name, Parameters: all[0].anchor().Parameters()}
	row.spent(all[1:])
	for _, t := range all[1:] {
		if kind == ffnAlone {
			row.Parameters += int64(s.scale.ffnWeights() - s.scale.layers*s.scale.hidden)
		} else {
			row.Parameters += t.anchor().Parameters()
		}
	}
	row.Active = row.Parameters
	row.Scores, err = s.scores(name, fmt.Sprint(append([]any{keys(all)}, also...)...), predict)
	return row, err
}

func soupRows(s *paperSeed) ([]paperRow, error) {
	all, err := s.denses(whole)
	if err != nil {
		return nil, err
	}
	soup, err := uniformSoup(all)
	if err != nil {
		return nil, err
	}
	average, err := s.mergedRow(whole, rowAverage, s.of(model.NewMixture(soup)))
	if err != nil {
		return nil, err
	}
	average.Parameters, average.Active = soup.Parameters(), soup.Parameters()
	weighted, err := s.mergedRow(whole, rowWeighted, func(t *paperText) (*eval.Prediction, error) {
		parts, err := s.predictions(whole, t)
		if err != nil {
			return nil, err
		}
		return eval.PredictSoups(anchorsOf(all), parts, t.ids)
	})
	return []paperRow{average, weighted}, err
}

// temperatures are what is tried on valid.
var temperatures = []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2}

// tempered returns ways to mix the dense models, each with the temperature with which it predicts valid best: the mean of the domains and the mixed set
// together.
func (s *paperSeed) tempered(kind denseKind, mixtures []*model.Mixture, ways []eval.Branching) ([]eval.Branching, error) {
	var tried []eval.Branching
	for _, b := range ways {
		for _, b.Temperature = range temperatures {
			tried = append(tried, b)
		}
	}
	bits := make([]float64, len(tried))
	for i, t := range s.data.valid {
		s.progress.evaluating("BTM on text for validation, to temper it")
		parts, err := s.predictions(kind, t)
		if err != nil {
			return nil, err
		}
		share := 1.0
		if i < len(s.data.domains) {
			share /= float64(len(s.data.domains))
		}
		for j, p := range eval.PredictBranches(mixtures, parts, t.ids, tried...) {
			bits[j] += share * p.BitsPerByte(len(t.ids), t.bytes)
		}
	}
	var best []eval.Branching
	for i, n := 0, len(temperatures); i < len(tried); i += n {
		of := bits[i : i+n]
		best = append(best, tried[i+slices.Index(of, slices.Min(of))])
	}
	return best, nil
}

// branches are the rows of mixing what the dense models predict in several ways.
func (s *paperSeed) branches(kind denseKind, names []string, ways ...eval.Branching) (rows []paperRow, err error) {
	all, err := s.denses(kind)
	if err != nil {
		return nil, err
	}
	var mixtures []*model.Mixture
	for _, t := range all {
		mixtures = append(mixtures, s.inPrecision(t.mixture))
	}
	var valid []any // determines the temperatures
	for _, t := range s.data.valid {
		valid = append(valid, t.digest)
	}
	var tuned []eval.Branching
	predicted := make(map[string][]*eval.Prediction)
	for i, name := range names {
		row, err := s.mergedRow(kind, name, func(t *paperText) (*eval.Prediction, error) {
			if tuned == nil {
				if tuned, err = s.tempered(kind, mixtures, ways); err != nil {
					return nil, err
				}
			}
			if predicted[t.name] == nil {
				parts, err := s.predictions(kind, t)
				if err != nil {
					return nil, err
				}
				predicted[t.name] = eval.PredictBranches(mixtures, parts, t.ids, tuned...)
			}
			return predicted[t.name][i], nil
		}, valid...)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func branchRows(s *paperSeed) ([]paperRow, error) {
	return s.branches(whole, []string{rowTop1, rowTop2, rowBTM, rowProbabilities},
		eval.Branching{Top: 1}, eval.Branching{Top: 2}, eval.Branching{}, eval.Branching{Probabilities: true})
}

func routingRow(s *paperSeed) ([]paperRow, error) {
	row, err := s.mergedRow(whole, rowRouting, func(t *paperText) (*eval.Prediction, error) {
		parts, err := s.predictions(whole, t)
		if err != nil {
			return nil, err
		}
		n := s.scale.length
		return eval.Select(parts, func(w int) int { return s.data.classifier.Class(t.ids[w*n:][:s.scale.input()]) }), nil
	})
	if err != nil {
		return nil, err
	}
	a, err := s.anchor()
	if err != nil {
		return nil, err
	}
	row.Active = a.anchor().Parameters()
	return []paperRow{row}, nil
}

func rankRows(s *paperSeed) (rows []paperRow, err error) {
	for _, rank := range s.scale.ranks {
		m, parts, err := s.compressed(rank)
		if err != nil {
			return nil, err
		}
		row, err := s.mixtureRow(fmt.Sprintf("FlexOlmo, rank %d", rank), m, parts...)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}
