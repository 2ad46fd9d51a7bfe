package notice

import (
	"math"
	"strings"
)

// Privacy is what the owner claims of how an expert was trained: with differential privacy for the units of its text, by DP-SGD.
// It is in the owner's words and unproven; whether Epsilon follows from the other numbers anyone can work out. It
// covers the text that was trained on, not what the offer's metrics say of held-out text.
type Privacy struct {
	Unit       string  `json:"unit"`        // what one unit is: "document", or "field:" and the name of the field whose value its records share
	Sampler    string  `json:"sampler"`     // "poisson": each unit is in a batch with probability rate, independently
	Rate       float64 `json:"rate"`        // q; above 0, at most 1
	Noise      float64 `json:"noise"`       // σ, in multiples of clip; above 0
	Clip       float64 `json:"clip"`        // C, the largest norm of a unit's gradient; above 0
	Steps      int64   `json:"steps"`       // T; from 1
	StartNoise float64 `json:"start_noise"` // σ of the one mean that the router's rows start from; above 0
	Delta      float64 `json:"delta"`       // above 0, below 1
	Epsilon    float64 `json:"epsilon"`     // above 0
}

const (
	samplerPoisson = "poisson"
	unitDocument   = "document"
	unitField      = "field:"

	// maxPrivacy bounds the numbers of a [Privacy].
	maxPrivacy = 1e9
)

// validate accepts no claim at all.
func (p *Privacy) validate() error {
	if p == nil {
		return nil
	}
	if field, ok := strings.CutPrefix(p.Unit, unitField); p.Unit != unitDocument && (!ok || strings.TrimSpace(field) == "") {
		return malformed("unit is %.80q, want %q or %q and a name", p.Unit, unitDocument, unitField)
	}
	if p.Sampler != samplerPoisson {
		return malformed("sampler is %.80q, want %q: no other is accounted for", p.Sampler, samplerPoisson)
	}
	for _, err := range []error{
		checkText("unit", p.Unit),
		checkPositive("rate", p.Rate, 1),
		checkPositive("noise", p.Noise, maxPrivacy),
		checkPositive("clip", p.Clip, maxPrivacy),
		checkRange("steps", p.Steps, 1, MaxSeq),
		checkPositive("start_noise", p.StartNoise, maxPrivacy),
		checkPositive("delta", p.Delta, math.Nextafter(1, 0)),
		checkPositive("epsilon", p.Epsilon, maxPrivacy),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkPositive(field string, v, most float64) error {
	if !(v > 0 && v <= most) {
		return malformed("%s is %v, want more than 0 and at most %v", field, v, most)
	}
	return nil
}
