package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// Bounds of what is claimed.
const (
	overBTM        = 1.10 // times BTM's reduction
	ofUnrestricted = 0.95 // of the unrestricted mixture's
	givesBack      = 0.90 // of its gain, an expert that leaves
	movesOthers    = 0.01 // of a domain's bits, at most
)

// claims checks what the table must show.
func (p *paper) claims(t *paperTable, figures []*paperFigures) {
	has := func(name string) bool { return len(t.find(name)) > 0 }
	if !has(rowFlexOlmo) {
		return
	}
	mixed := t.texts[len(t.texts)-1:]
	for _, name := range t.names() {
		if !slices.Contains([]string{rowAverage, rowWeighted, rowTop1, rowTop2, rowBTM, rowProbabilities, rowRouting, rowBTX,
			rowFFNs, rowFFNProbabilities, rowCompute, rowComputeProbabilities}, name) {
			continue
		}
		t := t.having(name)
		ours, theirs := t.together(rowFlexOlmo), t.together(name)
		need := 1.0
		if name == rowBTM {
			need = overBTM
		}
		p.check(ours > theirs && ours >= need*theirs, "FlexOlmo is at least %.2f times %s: reduction on domains and mixed %.3f against %.3f (%.2f times); domains alone %.3f, %.3f; mixed alone %.3f, %.3f",
			need, name, ours, theirs, ours/theirs, t.reduction(rowFlexOlmo, t.domains()), t.reduction(name, t.domains()), t.reduction(rowFlexOlmo, mixed), t.reduction(name, mixed))
	}
	if has(rowUnrestricted) {
		t := t.having(rowUnrestricted)
		ours, theirs := t.together(rowFlexOlmo), t.together(rowUnrestricted)
		p.check(ours >= ofUnrestricted*theirs, "FlexOlmo reaches %.0f %% of the unrestricted mixture at equal compute: %.3f of %.3f (%.1f %%)", 100*ofUnrestricted, ours, theirs, 100*ours/theirs)
	}
	for _, name := range []string{rowNoBias, rowRandomRows, rowNoCoordination, rowNoGuide, rowNoSplicing, rowNoTopic, rowNoRenaming, rowPaper} {
		if has(name) {
			t := t.having(name)
			ours, theirs := t.together(rowFlexOlmo), t.together(name)
			p.check(ours > theirs, "FlexOlmo is better than %q: reduction %.3f against %.3f", name, ours, theirs)
		}
	}
	if len(figures) == 0 {
		return
	}
	for i, domain := range t.domains()[1:] {
		var back []float64
		moved := make(map[string][]float64) // by another domain, by how much of its bits
		for _, f := range figures {
			all, without, anchor := f.All, f.Without[i], f.Anchor
			back = append(back, (without[domain].Bits-all[domain].Bits)/(anchor[domain].Bits-all[domain].Bits))
			for _, other := range t.domains() {
				if other != domain {
					moved[other] = append(moved[other], without[other].Bits/all[other].Bits-1)
				}
			}
		}
		p.check(mean(back) >= givesBack, "%s gives back %.0f %% of its gain there when it leaves: %.1f %%", domain, 100*givesBack, 100*mean(back))
		most := slices.MaxFunc(slices.Sorted(maps.Keys(moved)), func(a, b string) int {
			return cmp.Compare(math.Abs(mean(moved[a])), math.Abs(mean(moved[b])))
		})
		p.check(math.Abs(mean(moved[most])) <= movesOthers, "%s moves no other domain's bits by more than %.0f %% when it leaves: the most %s's, %+.2f %%", domain, 100*movesOthers, most, 100*mean(moved[most]))
	}
}
