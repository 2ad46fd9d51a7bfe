// Package leak looks for what an expert gives away of the text that it was trained on, before it is published: by extraction
// (FlexOlmo, arXiv 2507.07024, section 5.3), by canaries, by membership inference, and by personal data in what it writes.
//
// It finds leaks; that it finds none proves nothing beyond its intervals. What it returns holds text of the training data wherever a name says
// so: that is for the owner's eyes. A [Report] holds numbers only, and may travel.
//
// Begin with [PaperAttack], [Plant], [Losses] and [Find], then [Report.Judge].
package leak

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// Confidence is that of every interval and bound in this package.
const Confidence = 0.95

// A Rate is how often something happened, with its interval after Wilson (1927), which holds for rates near 0 and few trials too.
type Rate struct {
	Count int     `json:"count"`
	Of    int     `json:"of"`
	Value float64 `json:"rate"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// RateOf is the rate of count in of trials. Of none nothing is known: the interval is 0 to 1.
func RateOf(count, of int) Rate {
	r := Rate{Count: count, Of: of, High: 1}
	if of == 0 {
		return r
	}
	z := distuv.UnitNormal.Quantile((1 + Confidence) / 2)
	n, p := float64(of), float64(count)/float64(of)
	middle := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	r.Value, r.Low, r.High = p, max(0, middle-half), min(1, middle+half)
	if count == 0 {
		r.Low = 0
	}
	if count == of {
		r.High = 1
	}
	return r
}
