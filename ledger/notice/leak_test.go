package notice

import (
	"strings"
	"testing"
)

func TestAnOfferNamesItsLeakReportAndACharterItsLimits(t *testing.T) {
	o, c := anOffer(), aCharter()
	o.LeakReport = ref("report")
	c.Leak = LeakLimits{Extraction: LeakLimit{0.01, 0.05}, Membership: LeakLimit{0.05, 0.25}, Epsilon: LeakLimit{3, 8}, Personal: LeakLimit{0, 0.05}}
	signed, err := Parse(mustSign(t, o, key(1)).Envelope)
	if err != nil || signed.Body.(*Offer).LeakReport != o.LeakReport {
		t.Errorf("the offer comes back with %v, error %v", signed.Body.(*Offer).LeakReport, err)
	}
	signed, err = Parse(mustSign(t, c, key(1), key(2)).Envelope)
	if err != nil || signed.Body.(*Charter).Leak != c.Leak {
		t.Errorf("the charter comes back with %v, error %v", signed.Body.(*Charter).Leak, err)
	}
	for _, body := range []Body{anOffer(), aCharter()} { // without either, a notice is what it was before there were any
		if p := payloadOf(t, body); strings.Contains(p, "leak") {
			t.Errorf("a notice that says nothing of leaks: %s", p)
		}
	}
}
