package main

import (
	"fmt"
	"image/color"
	"path/filepath"

	"chorus/model"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// paperFigures are what becomes of one seed's FlexOlmo with fewer experts.
type paperFigures struct {
	Anchor  map[string]paperScore
	All     map[string]paperScore   // with every expert
	Without []map[string]paperScore // by the expert that is left out
	Active  []map[string]paperScore // with k = 1, 2, … slots a token; of the first seed alone
	Added   []map[string]paperScore // with the first 1, 2, … experts; of the first seed alone
}

// figures evaluates them, of the first seed or of another.
func (s *paperSeed) figures(first bool) (*paperFigures, error) {
	full, parts, err := s.flexOlmo(ours)
	if err != nil {
		return nil, err
	}
	f := new(paperFigures)
	evaluate := func(to *[]map[string]paperScore, name string, m *model.Mixture, made []*training) {
		if err == nil {
			var row paperRow
			row, err = s.mixtureRow(name, m, made...)
			*to = append(*to, row.Scores)
		}
	}
	a, err := s.anchor()
	if err != nil {
		return nil, err
	}
	var ends []map[string]paperScore
	evaluate(&ends, rowAnchor, a.mixture, []*training{a})
	evaluate(&ends, rowFlexOlmo, full, parts)
	experts := expertsOf(full)
	for i, d := range s.data.domains[1:] {
		var rest []*model.Expert
		var made []*training
		for j, e := range experts {
			if j != i {
				rest, made = append(rest, e), append(made, parts[j])
			}
		}
		evaluate(&f.Without, "without "+d.name, model.NewMixture(full.Anchor, rest...), made)
	}
	for k := 1; first && k < len(full.Slots); k++ {
		m := *full
		m.TopK = k
		evaluate(&f.Active, fmt.Sprintf("k = %d", k), &m, parts)
	}
	for n := 1; first && n < len(experts); n++ {
		evaluate(&f.Added, fmt.Sprintf("%d experts", n), model.NewMixture(full.Anchor, experts[:n]...), parts[:n])
	}
	if err != nil {
		return nil, err
	}
	f.Anchor, f.All = ends[0], ends[1]
	if first {
		f.Active, f.Added = append(f.Active, f.All), append(f.Added, f.All)
	}
	return f, nil
}

// plots draws the figures into the folder out: means over the seeds that have them.
func (t *paperTable) plots(out string, figures []*paperFigures) error {
	if err := t.bars(filepath.Join(out, "domains.png")); err != nil || len(figures) == 0 {
		return err
	}
	bits := func(pick func(*paperFigures) map[string]paperScore, text string) (m float64) {
		for _, f := range figures {
			m += pick(f)[text].Bits / float64(len(figures))
		}
		return m
	}
	if err := t.optOut(filepath.Join(out, "opt-out.png"), bits); err != nil {
		return err
	}
	series := func(n int, at func(f *paperFigures, i int) map[string]paperScore) (lines map[string]plotter.XYs) {
		lines = make(map[string]plotter.XYs)
		for i := range n {
			pick := func(f *paperFigures) map[string]paperScore { return at(f, i) }
			var sum float64
			for _, d := range t.domains() {
				sum += bits(pick, d) / float64(len(t.domains()))
			}
			x := float64(i + 1)
			lines["mean of domains"] = append(lines["mean of domains"], plotter.XY{X: x, Y: sum})
			lines[mixedSet] = append(lines[mixedSet], plotter.XY{X: x, Y: bits(pick, mixedSet)})
		}
		return lines
	}
	figures = figures[:1] // the others lack what follows
	active := series(len(figures[0].Active), func(f *paperFigures, i int) map[string]paperScore { return f.Active[i] })
	if err := lines(filepath.Join(out, "active.png"), "Slots active for a token", "k", active); err != nil {
		return err
	}
	added := series(1+len(figures[0].Added), func(f *paperFigures, i int) map[string]paperScore {
		if i == 0 {
			return f.Anchor
		}
		return f.Added[i-1]
	})
	return lines(filepath.Join(out, "added.png"), "Experts added one by one", "slots", added)
}

const bitsLabel = "bits per byte"

func lines(path, title, x string, of map[string]plotter.XYs) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, bitsLabel
	if err := plotutil.AddLinePoints(p, "mean of domains", of["mean of domains"], mixedSet, of[mixedSet]); err != nil {
		return err
	}
	p.Legend.Top = true
	return p.Save(16*vg.Centimeter, 10*vg.Centimeter, path)
}

// grouped draws bars of several models for each text.
func grouped(path, title string, texts, models []string, value func(model, text string) float64) error {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = title, bitsLabel
	width := vg.Points(60 / float64(len(models)))
	for i, m := range models {
		var v plotter.Values
		for _, text := range texts {
			v = append(v, value(m, text))
		}
		bars, err := plotter.NewBarChart(v, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = shade(i), 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(models)-1)/2)
		p.Add(bars)
		p.Legend.Add(m, bars)
	}
	p.Legend.Top = true
	p.NominalX(texts...)
	p.Y.Min = 0
	p.Y.Max *= 1.25
	return p.Save(vg.Points(80*float64(len(texts))+80), 10*vg.Centimeter, path)
}

func shade(i int) color.Color { return plotutil.Color(i) }

// bars compares the main rows on each text.
func (t *paperTable) bars(path string) error {
	var models []string
	for _, name := range []string{rowAnchor, rowAverage, rowBTM, rowBTX, rowFlexOlmo, rowUnrestricted} {
		if len(t.find(name)) > 0 {
			models = append(models, name)
		}
	}
	return grouped(path, "Held-out text", t.texts, models, func(m, text string) float64 { return mean(t.values(m, bitsOn(text))) })
}

// optOut shows each domain with all experts, without its own, in the mean of those without another, and the anchor alone.
func (t *paperTable) optOut(path string, bits func(func(*paperFigures) map[string]paperScore, string) float64) error {
	private := t.domains()[1:]
	models := []string{"all experts", "without its own", "without another", rowAnchor}
	return grouped(path, "Each expert removed in turn", private, models, func(m, text string) float64 {
		switch m {
		case models[0]:
			return bits(func(f *paperFigures) map[string]paperScore { return f.All }, text)
		case rowAnchor:
			return bits(func(f *paperFigures) map[string]paperScore { return f.Anchor }, text)
		}
		var sum float64
		n := 0
		for i, d := range private {
			if (d == text) == (m == models[1]) {
				sum += bits(func(f *paperFigures) map[string]paperScore { return f.Without[i] }, text)
				n++
			}
		}
		return sum / float64(max(1, n))
	})
}
