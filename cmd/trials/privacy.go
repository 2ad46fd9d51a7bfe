package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"chorus/ledger/notice"
	"chorus/node"

	"github.com/spf13/cobra"
)

// A privacyPrice is how a trial trains.
type privacyPrice struct {
	data, public, anchor string
	steps, batch         int
	delta                float64
}

// budgets are the ε that are tried, from the weakest promise to the strongest; 0 for a training without privacy.
var budgets = []float64{0, 8, 3, 1}

func privacyTrial() *cobra.Command {
	var p privacyPrice
	c := &cobra.Command{
		Use:   "privacy",
		Short: "Measure what privacy costs: an expert trained as usual, and with ε of 8, 3 and 1",
		Long: `Trains an expert on the same text without privacy and with differential privacy at ε of 8, 3 and 1, each document a unit, with the
command as members use it, and compares them in bits per byte of held-out documents. The reduction of each is against the anchor on the same
documents: those that a private training holds out are others.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return p.run(c.Context()) },
	}
	c.Flags().StringVar(&p.data, "data", "", "the member's text: a file or folder")
	_ = c.MarkFlagRequired("data") // it is there
	c.Flags().StringVar(&p.public, "public", "", "public text; default: Go's documentation")
	c.Flags().StringVar(&p.anchor, "anchor", "", "an anchor's folder; default: one is trained on the public text")
	c.Flags().IntVar(&p.steps, "steps", 60, "of each private training")
	c.Flags().IntVar(&p.batch, "batch", 256, "units in a step, in the mean")
	c.Flags().Float64Var(&p.delta, "delta", 1e-5, "δ")
	return c
}

func (p *privacyPrice) run(ctx context.Context) error {
	dir, chorus, err := trialFolder(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "hub")
	run := func(args ...string) error {
		c := interruptible(ctx, chorus, append(args, "--home", home)...)
		c.Stdout, c.Stderr = io.Discard, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("chorus %s: %w", args[0], err)
		}
		return nil
	}
	var public []string
	if p.public != "" {
		public = []string{"--data", "public=" + p.public}
	}
	if err := run("init", "hub"); err != nil {
		return err
	}
	anchor := cmp.Or(p.anchor, filepath.Join(dir, "anchor"))
	if p.anchor == "" {
		if err := run(append([]string{"anchor", "train", "--out", anchor}, public...)...); err != nil {
			return err
		}
	}
	if err := run("charter", "new", "price", "--anchor", anchor, "--out", filepath.Join(dir, "charter.json")); err != nil {
		return err
	}
	// As `chorus up` would.
	if err := os.CopyFS(node.Home(home).Anchor(), os.DirFS(anchor)); err != nil {
		return err
	}
	t := &tally{}
	reduction := make([]float64, len(budgets))
	for i, epsilon := range budgets {
		name := fmt.Sprintf("epsilon-%g", epsilon)
		args := append([]string{"train", "--data", name + "=" + p.data}, public...)
		if epsilon > 0 {
			args = append(args, "--dp-epsilon", fmt.Sprint(epsilon), "--dp-delta", fmt.Sprint(p.delta), "--steps", fmt.Sprint(p.steps), "--batch", fmt.Sprint(p.batch))
		}
		if err := run(args...); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(home, "training", name+".report", "report.json"))
		if err != nil {
			return err
		}
		var report struct {
			Metrics notice.Metrics
			Privacy *notice.Privacy
		}
		if err := json.Unmarshal(b, &report); err != nil {
			return err
		}
		m := report.Metrics
		reduction[i] = m.AnchorBitsPerByte - m.ExpertBitsPerByte
		switch got := report.Privacy; {
		case epsilon == 0:
			fmt.Printf("without privacy: from the anchor's %.3f bits per byte to %.3f\n", m.AnchorBitsPerByte, m.ExpertBitsPerByte)
			continue
		case got == nil:
			t.check(false, "ε = %g: the report claims privacy", epsilon)
			continue
		default:
			t.check(got.Epsilon <= epsilon && got.Delta <= p.delta, "ε = %g: q = %.4f, σ = %.3f, C = %g and %d steps make ε = %.4f at δ = %g", epsilon, got.Rate, got.Noise, got.Clip, got.Steps, got.Epsilon, got.Delta)
		}
		t.check(reduction[i] > 0, "ε = %g: from the anchor's %.3f bits per byte to %.3f, %.0f %% of the reduction without privacy",
			epsilon, m.AnchorBitsPerByte, m.ExpertBitsPerByte, 100*reduction[i]/reduction[0])
	}
	return t.verdict()
}
