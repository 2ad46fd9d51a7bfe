package leak

import (
	"math"
	"slices"

	"chorus/kernels"
	"chorus/model"
)

// batchTokens bounds the memory of one forward pass.
const batchTokens = 4096

// Losses returns for each document, as at least two tokens, what m needs to predict every token but the first, in nats. A document longer than
// the model's positions is cut.
func Losses(m *model.Mixture, documents [][]int32) []float64 {
	order := make([]int, len(documents))
	for i := range order {
		order[i] = i
	}
	limit := m.Anchor.Config.MaxPositions
	length := func(i int) int { return min(len(documents[i])-1, limit) }
	slices.SortStableFunc(order, func(a, b int) int { return length(a) - length(b) })
	out := make([]float64, len(documents))
	var pass model.Pass
	vocab := m.Anchor.Config.VocabSize
	for len(order) > 0 {
		n := 1
		for n < len(order) && (n+1)*length(order[n]) <= batchTokens {
			n++
		}
		wide := length(order[n-1])
		ids, targets := make([]int32, n*wide), make([]int32, n*wide)
		for r, i := range order[:n] { // what is shorter ends with zeros, which nothing before them sees
			copy(ids[r*wide:], documents[i][:length(i)])
			copy(targets[r*wide:], documents[i][1:][:length(i)])
		}
		m.Forward(&pass, ids, n, wide)
		logp := make([]float32, n*wide)
		kernels.LogProb(logp, pass.Logits, targets, vocab, n*wide)
		for r, i := range order[:n] {
			for _, v := range logp[r*wide:][:length(i)] {
				out[i] -= float64(v)
			}
		}
		order = order[n:]
	}
	return out
}

// A Membership is how well a score tells training documents from others.
type Membership struct {
	Members    int     `json:"members"`
	Others     int     `json:"others"`
	AUC        float64 `json:"auc"`        // the probability that a member's score is the higher, ties counted by half
	AUCLow     float64 `json:"auc_low"`    // after Hanley and McNeil (1982)
	AUCHigh    float64 `json:"auc_high"`   //
	At1Percent Rate    `json:"tpr_at_1"`   // of members found where at most 1 % of others are taken for members
	At1PerMill Rate    `json:"tpr_at_0.1"` // and where 0.1 % are
	FPR1       Rate    `json:"fpr_at_1"`   // what the others say about the rate at that threshold: of few they say little
	FPR01      Rate    `json:"fpr_at_0.1"` //
	ROC        []Point `json:"roc"`        // at most some hundred points of the curve
}

// A Point is one of a curve.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// MembershipOf compares scores, of which a higher one speaks for a member (Carlini et al. 2022, arXiv 2112.03570: what matters is the rate
// of finding where there are few false alarms).
func MembershipOf(members, others []float64) Membership {
	in, out := slices.Clone(members), slices.Clone(others)
	slices.Sort(in)
	slices.Sort(out)
	r := Membership{Members: len(in), Others: len(out)}
	if len(in) == 0 || len(out) == 0 {
		r.At1Percent, r.At1PerMill, r.FPR1, r.FPR01 = RateOf(0, 0), RateOf(0, 0), RateOf(0, 0), RateOf(0, 0)
		r.AUC, r.AUCHigh = 0.5, 1
		return r
	}
	above := func(sorted []float64, t float64) int { // strictly
		i, _ := slices.BinarySearchFunc(sorted, t, func(v, t float64) int {
			if v <= t {
				return -1
			}
			return 1
		})
		return len(sorted) - i
	}
	at := func(f float64) (tpr, fpr Rate) {
		allowed := int(f * float64(len(out)))
		t := out[len(out)-1-allowed]
		return RateOf(above(in, t), len(in)), RateOf(above(out, t), len(out))
	}
	r.At1Percent, r.FPR1 = at(0.01)
	r.At1PerMill, r.FPR01 = at(0.001)
	for _, v := range in {
		below, _ := slices.BinarySearch(out, v)
		r.AUC += (float64(below) + float64(len(out)-below-above(out, v))/2) / float64(len(in)*len(out))
	}
	q1, q2, a := r.AUC/(2-r.AUC), 2*r.AUC*r.AUC/(1+r.AUC), r.AUC
	m, n := float64(len(in)), float64(len(out))
	half := 1.96 * math.Sqrt(max(0, a*(1-a)+(m-1)*(q1-a*a)+(n-1)*(q2-a*a))/(m*n))
	r.AUCLow, r.AUCHigh = max(0, a-half), min(1, a+half)

	// Points are dense where false alarms are few: the curve is drawn over their logarithm.
	last := -1
	for i := range rocPoints {
		allowed := int(math.Pow(n, float64(i)/rocPoints)) // 1 and on
		if i == 0 {
			allowed = 0
		}
		if allowed > last && allowed < len(out) {
			last = allowed
			t := out[len(out)-1-allowed]
			r.ROC = append(r.ROC, Point{float64(above(out, t)) / n, float64(above(in, t)) / m})
		}
	}
	r.ROC = append(r.ROC, Point{1, 1})
	return r
}

const rocPoints = 100
