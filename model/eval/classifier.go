package eval

import "math"

// A Classifier tells the class of a text by its tokens, as multinomial naive Bayes does with add-one smoothing and classes
// that are equally likely. It is what routes a prompt to one of several models.
type Classifier struct {
	logp [][]float32 // (classes, vocabulary)
}

// NewClassifier learns from a text of each class; tokens are below vocab.
func NewClassifier(vocab int, texts ...[]int32) *Classifier {
	c := new(Classifier)
	for _, ids := range texts {
		counts := make([]int, vocab)
		for _, id := range ids {
			counts[id]++
		}
		logp := make([]float32, vocab)
		for t, n := range counts {
			logp[t] = float32(math.Log(float64(n+1) / float64(len(ids)+vocab)))
		}
		c.logp = append(c.logp, logp)
	}
	return c
}

// Class returns the class that ids most likely are of.
func (c *Classifier) Class(ids []int32) int {
	best, most := 0, math.Inf(-1)
	for i := range c.logp {
		if s := c.score(i, ids); s > most {
			best, most = i, s
		}
	}
	return best
}

// Odds returns by how many nats a token ids are likelier of class a than of class b, in the mean.
func (c *Classifier) Odds(ids []int32, a, b int) float64 {
	return (c.score(a, ids) - c.score(b, ids)) / float64(max(1, len(ids)))
}

func (c *Classifier) score(class int, ids []int32) (sum float64) {
	for _, id := range ids {
		sum += float64(c.logp[class][id])
	}
	return sum
}
