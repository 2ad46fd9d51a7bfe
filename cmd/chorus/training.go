package main

import (
	"context"
	"encoding/json"
	"fmt"
	"image/color"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"chorus/durable"
	"chorus/kernels"
	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/train"

	"github.com/spf13/cobra"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// trainingHelp is what both commands that train say of it.
const trainingHelp = `Text is read once, document by document, into a file of tokens. What is no text, and what comes twice,
is skipped and counted. A tenth of the documents is held out to report on. Another twentieth is not
trained on either: the weights that are best on it are those that are kept, and when it gets worse
several times in a row, training stops. Text of fewer than 40 documents is cut into pieces of about 4 kB,
and then the pieces that are held out are of the same documents as those that are trained on.

Interrupted, training goes on where it was when the command is run again. What it needs for that,
the text as tokens among it, lies in a folder NAME.training, which is removed at the end. A plot and
all figures are left in NAME.report. The same text and seed give the same weights.`

// recipeFlags are what one may choose of a recipe.
func recipeFlags(c *cobra.Command, r *train.Recipe) {
	f := c.Flags()
	f.Uint64Var(&r.Seed, "seed", r.Seed, "the same seed and text give the same weights")
	f.IntVar(&r.Steps, "steps", r.Steps, "how long to train, if it does not stop early")
	f.IntVar(&r.Sequences, "batch", r.Sequences, fmt.Sprintf("how many windows of %d tokens each step learns from", r.Length))
	f.IntVar(&r.Micro, "micro-batch", r.Micro, "how many of them to compute at a time, which takes less memory; 0: all")
	f.IntVar(&r.Patience, "patience", r.Patience, "after how many measurements without a better one to stop; 0: never")
	f.Float64Var(&r.LR, "lr", r.LR, "learning rate at its highest")
}

// checkRecipe refuses what recipeFlags let through and no training can do.
func checkRecipe(r train.Recipe, leastBatch int) error {
	switch {
	case r.Steps < 1:
		return usageError{fmt.Errorf("--steps %d: expected 1 or more", r.Steps)}
	case r.Sequences < leastBatch || r.Sequences > 1<<20:
		return usageError{fmt.Errorf("--batch %d: expected %d to %d", r.Sequences, leastBatch, 1<<20)}
	case r.Micro < 0:
		return usageError{fmt.Errorf("--micro-batch %d: expected 0 or more", r.Micro)}
	case r.Patience < 0:
		return usageError{fmt.Errorf("--patience %d: expected 0 or more", r.Patience)}
	case !(r.LR > 0):
		return usageError{fmt.Errorf("--lr %v: expected more than 0", r.LR)}
	}
	return nil
}

// workFolder is where training keeps what it goes on with, and reportFolder where it leaves its report; path is the anchor's folder or the
// expert's file.
func workFolder(path string) string   { return strings.TrimSuffix(path, ".safetensors") + ".training" }
func reportFolder(path string) string { return strings.TrimSuffix(path, ".safetensors") + ".report" }

// A trainingReport is the content of report.json.
type trainingReport struct {
	Name     string          `json:"name"`
	Text     train.Counts    `json:"text"`
	Public   *train.Counts   `json:"public,omitempty"`   // text beside that of an expert
	Canaries int             `json:"canaries,omitempty"` // of Text's documents
	Metrics  measured        `json:"metrics"`            // on held-out text
	Privacy  *notice.Privacy `json:"privacy,omitempty"`  // nil unless it was trained privately
	train.History
	TokensPerSecond float64           `json:"tokens_per_second"`
	PeakMemory      int64             `json:"peak_memory_bytes,omitempty"` // of the process that ended the training
	Recipe          train.Recipe      `json:"recipe"`
	Versions        map[string]string `json:"versions"`
}

// measured is [notice.Metrics], but that the report of an anchor says nothing of an expert.
type measured struct {
	TrainTokens       int64   `json:"train_tokens"`
	HeldoutBytes      int64   `json:"heldout_bytes"`
	AnchorBitsPerByte float64 `json:"anchor_bits_per_byte"`
	ExpertBitsPerByte float64 `json:"expert_bits_per_byte,omitempty"`
}

func newReport(name string, r train.Recipe) *trainingReport {
	return &trainingReport{Name: name, Recipe: r}
}

// tokens are how many the training went through.
func (r *trainingReport) tokens() int64 {
	return int64(r.Steps) * int64(r.Recipe.Sequences) * int64(r.Recipe.Length)
}

// keep saves an expert at path, with what it and the anchor need for the text that is held out and, beside it, the report.
func (r *trainingReport) keep(ctx context.Context, path, anchorCID string, tensors []model.Tensor, anchor *model.Anchor, heldout *train.Tokens) error {
	if err := model.SaveExpert(path, anchorCID, tensors); err != nil {
		return err
	}
	expert, err := model.LoadExpert(path, anchor)
	if err != nil {
		return err
	}
	r.Metrics.TrainTokens = r.tokens() // of a private training, as expected: how many there were depends on which units were drawn
	if err := (encoded{heldout: heldout}).measure(ctx, (*notice.Metrics)(&r.Metrics), anchor, expert); err != nil {
		return err
	}
	if err := r.write(reportFolder(path)); err != nil {
		return err
	}
	return writeReport(path, published{notice.Metrics(r.Metrics), r.Privacy})
}

// write leaves the report and a plot of its curve in the folder dir.
func (r *trainingReport) write(dir string) error {
	if r.Seconds > 0 {
		r.TokensPerSecond = float64(r.tokens()) / r.Seconds
	}
	r.PeakMemory, r.Versions = peakMemory(), versions()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, "report.json"), durable.Bytes(b)); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, "curve.svg"), r.plot)
}

// versions are of what computed.
func versions() map[string]string {
	tier, _ := kernels.Tier()
	v := map[string]string{"go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH, "kernels": tier}
	if info, ok := debug.ReadBuildInfo(); ok {
		v["chorus"] = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v["commit"] = s.Value
			}
		}
	}
	return v
}

// plot draws the curve as SVG.
func (r *trainingReport) plot(w io.Writer) error {
	p, err := r.figure()
	if err != nil {
		return err
	}
	c := vgsvg.New(7*vg.Inch, 4*vg.Inch)
	p.Draw(draw.Crop(draw.New(c), vg.Points(4), vg.Points(-16), vg.Points(4), vg.Points(-4)))
	_, err = c.WriteTo(w)
	return err
}

func (r *trainingReport) figure() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = r.Name
	p.X.Label.Text, p.Y.Label.Text = "steps", "bits per byte"
	p.Legend.Top, p.Legend.XOffs, p.Legend.Padding = true, vg.Points(-8), vg.Points(3)
	p.Add(plotter.NewGrid())
	for i, s := range []struct {
		name string
		of   func(train.Point) float64
	}{
		{"the text that is trained on", func(p train.Point) float64 { return p.BitsPerByte }},
		{"other text of its kind", func(p train.Point) float64 { return p.Valid }},
	} {
		var points plotter.XYs
		for _, at := range r.Curve {
			if y := s.of(at); y > 0 {
				points = append(points, plotter.XY{X: float64(at.Step), Y: y})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		line.Color = curveColors[i]
		p.Add(line)
		p.Legend.Add(s.name, line)
	}
	return p, nil
}

// sayTrained says what was trained on, what was skipped, and where the report is.
func (a *app) sayTrained(r *trainingReport, dir string) {
	t := r.Text
	a.say("The text has %s documents, %s, %s tokens; training saw it %.2g times", thousands(int64(t.Documents)), megabytes(t.Bytes), thousands(t.Tokens), r.times())
	if r.Canaries > 0 {
		a.say("Of them %d are canaries", r.Canaries)
	}
	if t.Skipped.Total() > 0 {
		a.say("Skipped: %v", t.Skipped)
	}
	if r.Public != nil && r.Public.Skipped.Total() > 0 {
		a.say("Skipped of the public text: %v", r.Public.Skipped)
	}
	if r.Stopped {
		a.say("It stopped after %d of %d steps", r.Steps, r.Recipe.Steps)
	}
	if r.Best < r.Steps {
		a.say("The weights are those of step %d, which were the best on other text", r.Best)
	}
	a.say("A plot and all figures are in %s", dir)
}

// times is how often the text was gone through; of an expert's batches some is public.
func (r *trainingReport) times() float64 {
	own := (float64(r.Recipe.Sequences-r.Recipe.PublicSequences) - float64(r.Recipe.SplicedSequences)/2) / float64(r.Recipe.Sequences)
	return own * float64(r.tokens()) / float64(r.Text.Tokens)
}

// curveColors tell the lines of a plot apart.
var curveColors = []color.Color{color.RGBA{0x1f, 0x77, 0xb4, 0xff}, color.RGBA{0xd6, 0x27, 0x28, 0xff}}
