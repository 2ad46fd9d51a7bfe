package leak

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"percent": func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) },
	"rate": func(r Rate) string {
		return fmt.Sprintf("%.1f %% (%.1f to %.1f)", 100*r.Value, 100*r.Low, 100*r.High)
	},
	"kinds":      func() string { return strings.Join(Kinds(), ", ") },
	"median":     median,
	"most":       func(v []float64) float64 { return v[len(v)-1] },
	"extraction": plotExtraction, "similarity": plotSimilarity, "roc": plotROC, "exposure": plotExposure,
}).Parse(page))

// WriteHTML writes r as one page for people that needs nothing else. digest is that of the report as JSON.
func (r *Report) WriteHTML(w io.Writer, digest string) error {
	return pageTemplate.Execute(w, struct {
		*Report
		Digest string
	}{r, digest})
}

// median of a sorted list that is not empty.
func median(v []float64) float64 { return (v[(len(v)-1)/2] + v[len(v)/2]) / 2 }

// A plot is a figure with axes, drawn as SVG. Colours are classes of the page's, so that it follows a dark screen.
type plot struct {
	strings.Builder
	x, y          func(float64) float64 // from values to the figure's units
	width, height float64
}

// The room around a plot's field, for words.
const left, right, top, bottom = 46, 24, 10, 40

func newPlot(width, height float64, label string, x0, x1, y0, y1 float64) *plot {
	p := &plot{width: width, height: height}
	p.x = func(v float64) float64 { return left + (v-x0)/(x1-x0)*(width-left-right) }
	p.y = func(v float64) float64 { return height - bottom - (v-y0)/(y1-y0)*(height-top-bottom) }
	fmt.Fprintf(p, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, width, height, template.HTMLEscapeString(label))
	return p
}

func (p *plot) line(class string, x0, y0, x1, y1 float64) {
	fmt.Fprintf(p, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, class, x0, y0, x1, y1)
}

func (p *plot) text(class, anchor string, x, y float64, format string, args ...any) {
	fmt.Fprintf(p, `<text class="%s" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, class, anchor, x, y, template.HTMLEscapeString(fmt.Sprintf(format, args...)))
}

func (p *plot) rect(class string, x0, y0, x1, y1 float64) {
	fmt.Fprintf(p, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, class, min(x0, x1), min(y0, y1), math.Abs(x1-x0), math.Abs(y1-y0))
}

// grid draws a line and a word for each tick.
func (p *plot) gridY(format func(float64) string, ticks ...float64) {
	for _, t := range ticks {
		p.line("grid", left, p.y(t), p.width-right, p.y(t))
		p.text("tick", "end", left-5, p.y(t)+4, "%s", format(t))
	}
}

func (p *plot) gridX(format func(float64) string, ticks ...float64) {
	for _, t := range ticks {
		p.line("grid", p.x(t), top, p.x(t), p.height-bottom)
		p.text("tick", "middle", p.x(t), p.height-bottom+15, "%s", format(t))
	}
}

func (p *plot) caption(format string, args ...any) {
	p.text("tick", "middle", (left+p.width-right)/2, p.height-5, format, args...)
}

func (p *plot) done() template.HTML {
	p.WriteString("</svg>")
	return template.HTML(p.String())
}

func asPercent(v float64) string { return fmt.Sprintf("%.3g %%", 100*v) }
func asNumber(v float64) string  { return fmt.Sprintf("%g", v) }

// plotExtraction draws each subject's rate with its interval.
func plotExtraction(all []Extraction) template.HTML {
	p := newPlot(620, 260, "documents extracted, by subject", 0, float64(len(all)), 0, 1)
	p.gridY(asPercent, 0, 0.25, 0.5, 0.75, 1)
	for i, e := range all {
		at := float64(i)
		class := "subject"
		if e.Subject == TheBase || e.Subject == Overfit {
			class = "control"
		}
		p.rect(class, p.x(at+0.25), p.y(0), p.x(at+0.75), p.y(e.Hits.Value))
		p.line("error", p.x(at+0.5), p.y(e.Hits.Low), p.x(at+0.5), p.y(e.Hits.High))
		for _, v := range []float64{e.Hits.Low, e.Hits.High} {
			p.line("error", p.x(at+0.44), p.y(v), p.x(at+0.56), p.y(v))
		}
		p.text("tick", "middle", p.x(at+0.5), p.height-bottom+15, "%s", e.Subject)
	}
	p.caption("share of documents given away, with intervals of 95 %%")
	return p.done()
}

// plotSimilarity draws how near the first samples came, for each subject as a line of steps.
func plotSimilarity(all []Extraction, threshold float64) template.HTML {
	p := newPlot(620, 260, "similarity of continuations", 0, 1, 0, 1)
	p.gridY(asPercent, 0, 0.25, 0.5, 0.75, 1)
	p.gridX(asNumber, 0, 0.2, 0.4, 0.6, 0.8, 1)
	for i, e := range all {
		var path strings.Builder
		for b, n := range e.Histogram {
			share := float64(n) / float64(max(1, e.Hits.Of))
			command := "L"
			if b == 0 {
				command = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1fL%.1f %.1f", command, p.x(float64(b)/Bins), p.y(share), p.x(float64(b+1)/Bins), p.y(share))
		}
		fmt.Fprintf(p, `<path class="series s%d" d="%s"/>`, i, path.String())
		p.rect(fmt.Sprintf("key s%d", i), p.width-250, top+8+float64(i)*16, p.width-238, top+12+float64(i)*16)
		p.text("tick", "start", p.width-232, top+14+float64(i)*16, "%s", e.Subject)
	}
	p.line("limit", p.x(threshold), p.y(0), p.x(threshold), p.y(1))
	p.caption("similarity of one continuation to the document's own; the dashed line is where a hit begins")
	return p.done()
}

// plotROC draws the curves over the logarithm of false alarms.
func plotROC(all []MembershipScore) template.HTML {
	low := -3.0
	log := func(v float64) float64 { return max(low, math.Log10(v)) }
	p := newPlot(620, 300, "members found against false alarms", low, 0, low, 0)
	tick := func(v float64) string { return asPercent(math.Pow(10, v)) }
	p.gridX(tick, -3, -2, -1, 0)
	p.gridY(tick, -3, -2, -1, 0)
	p.line("limit", p.x(low), p.y(low), p.x(0), p.y(0))
	for i, m := range all {
		var points strings.Builder
		for j, point := range m.ROC {
			if j > 0 { // a curve of so many points goes up in steps
				fmt.Fprintf(&points, "%.1f,%.1f ", p.x(log(point.X)), p.y(log(m.ROC[j-1].Y)))
			}
			fmt.Fprintf(&points, "%.1f,%.1f ", p.x(log(point.X)), p.y(log(point.Y)))
		}
		fmt.Fprintf(p, `<polyline class="series s%d" points="%s"/>`, i, strings.TrimSpace(points.String()))
		p.rect(fmt.Sprintf("key s%d", i), left+10, top+8+float64(i)*16, left+22, top+12+float64(i)*16)
		p.text("tick", "start", left+28, top+14+float64(i)*16, "%s, %s", m.Subject, m.Score)
	}
	p.caption("false alarms (both axes logarithmic); on the dashed line a score tells nothing")
	return p.done()
}

// plotExposure draws every canary's exposure as a mark: those planted above, the others below.
func plotExposure(c CanaryReport) template.HTML {
	p := newPlot(620, 130, "exposure of canaries", 0, 30, 0, 2)
	p.gridX(asNumber, 0, 5, 10, 15, 20, 25, 30)
	for _, row := range []struct {
		class string
		at    float64
		of    []float64
		name  string
	}{{"s0", 1.5, c.Exposure, "planted"}, {"s1", 0.5, c.Unplanted, "not"}} {
		for _, v := range row.of {
			fmt.Fprintf(p, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="4"/>`, row.class, p.x(v), p.y(row.at))
		}
		p.text("tick", "end", left-5, p.y(row.at)+4, "%s", row.name)
	}
	p.caption("exposure in bits: of a secret never seen 1.4 in the mean, of one that is told 29.9")
	return p.done()
}
