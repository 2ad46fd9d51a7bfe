package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"chorus/ledger/notice"
	"chorus/model"

	"github.com/spf13/cobra"
)

// compressReport is what `chorus expert compress --json` prints.
type compressReport struct {
	Name      string         `json:"name"`
	Path      string         `json:"path"`
	Rank      int            `json:"rank"`
	Bytes     int64          `json:"bytes"`
	FullBytes int64          `json:"full_bytes"` // of the expert that it was made of
	Metrics   notice.Metrics `json:"metrics"`

	// FullBitsPerByte is of the expert that it was made of, on the text of Metrics; 0 if there was none.
	FullBitsPerByte float64 `json:"full_bits_per_byte"`
}

func (a *app) expertCompress() *cobra.Command {
	var rank int
	var out string
	var data []string
	c := &cobra.Command{
		Use:   "compress NAME --rank R",
		Short: "Make a smaller expert of one that is here",
		Long: `Makes a low-rank expert of one that "chorus train" or "chorus expert import" left: of each matrix, only
the R most important directions in which it differs from the public one. It is several times smaller to
send and to keep, runs in every mixture beside others, and is ready to be published in place of the
first. How much a rank loses depends on the expert: try a few. What it came from stays as it is.

With --data, as the expert was trained on it, both are measured on the tenth of the text that training
holds out. Without it the new expert's offer will say that it was not measured.`,
		Example: `  chorus expert compress cardiology --rank 64 --data cardiology=./reports
  chorus publish cardiology-r64`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			name := given[0]
			if out == "" {
				out = fmt.Sprintf("%s-r%d", name, rank)
			}
			text, err := parseData(data)
			switch {
			case err != nil:
				return err
			case len(text) > 1:
				return usageError{errors.New("name the text of one expert with --data NAME=PATH")}
			case rank < 1:
				return usageError{errors.New("say how much to keep with --rank, 1 or more")}
			case !validName(out):
				return usageError{errors.New("give the smaller expert a name of a-z, 0-9 and - with --name")}
			}
			r, err := a.compress(c.Context(), name, out, rank, text)
			if err != nil {
				return err
			}
			return a.result(r, func() {
				a.say("%s: rank %d, %s, %.0f %% of the %s of %s", out, rank, megabytes(r.Bytes), 100*float64(r.Bytes)/float64(r.FullBytes), megabytes(r.FullBytes), name)
				if r.Metrics.HeldoutBytes > 0 {
					a.say("%.3f bits per byte on held-out text, %s %.3f, the anchor %.3f", r.Metrics.ExpertBitsPerByte, name, r.FullBitsPerByte, r.Metrics.AnchorBitsPerByte)
				} else {
					a.say("It was not measured: name its text with --data to have its offer say how good it is")
				}
				a.say("Offer it with: chorus publish %s", out)
			})
		},
	}
	c.Flags().IntVar(&rank, "rank", 0, "how many directions to keep of each matrix, up to its shorter side")
	c.Flags().StringVar(&out, "name", "", "what to call the smaller expert (default: NAME-rR)")
	c.Flags().StringArrayVar(&data, "data", nil, "NAME=PATH: the text that it was trained on, a file or folder (repeatable)")
	return c
}

// compress makes the expert called out of the one called name, with its metrics, and says what that changed. text
// holds no domain, or one to measure it on.
func (a *app) compress(ctx context.Context, name, out string, rank int, text []domain) (r compressReport, err error) {
	from, err := a.publication(name, "")
	if err != nil {
		return r, err
	}
	r = compressReport{Name: out, Rank: rank, Metrics: notice.Metrics{TrainTokens: from.Metrics.TrainTokens}}
	if r.Path, err = a.newExpert(out); err != nil {
		return r, err
	}
	anchor, tok, id, err := a.anchorFor(ctx, "")
	if err != nil {
		return r, err
	}
	full, err := model.LoadExpert(from.Path, anchor)
	if err != nil {
		return r, err
	}
	if full.Anchor != id.String() {
		return r, fmt.Errorf("%s was trained against the anchor %s, expected the charter's: %s", from.Path, full.Anchor, id)
	}
	var own encoded
	if len(text) > 0 {
		if own, err = encodeCorpus(text[0], from.Privacy, anchor, tok); err != nil {
			return r, err
		}
	}
	t := a.task(out, int64(3*len(full.FFN)))
	err = model.CompressExpert(ctx, r.Path, full, anchor, rank, func(done, total int) {
		t.set(int64(done), "matrix %d of %d", done, total)
	})
	t.end()
	if err != nil {
		return r, err
	}
	if len(text) > 0 {
		if err := r.measure(context.WithoutCancel(ctx), full, anchor, own); err != nil {
			return r, err
		}
	}
	for path, size := range map[string]*int64{r.Path: &r.Bytes, from.Path: &r.FullBytes} {
		info, err := os.Stat(path)
		if err != nil {
			return r, err
		}
		*size = info.Size()
	}
	return r, writeReport(r.Path, published{r.Metrics, from.Privacy}) // what follows from a private expert alone is as private
}

// measure measures the expert at r.Path, the one that it was made of, and the anchor.
func (r *compressReport) measure(ctx context.Context, full *model.Expert, anchor *model.Anchor, own encoded) error {
	low, err := model.LoadExpert(r.Path, anchor)
	if err != nil {
		return err
	}
	if err := own.measure(ctx, &r.Metrics, anchor, low); err != nil {
		return err
	}
	r.FullBitsPerByte, err = own.bitsPerByte(ctx, model.NewMixture(anchor, full))
	return err
}
