package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// demoReport is the part of `chorus demo --json` that the claims are about.
type demoReport struct {
	Domains     []string `json:"domains"`
	BitsPerByte []struct {
		Model  string             `json:"model"`
		Values map[string]float64 `json:"values"`
		Mean   float64            `json:"mean"`
	} `json:"bits_per_byte"`
	Answers []struct {
		Domain string `json:"domain"`
		Shares []struct {
			Domain string  `json:"domain"`
			Share  float64 `json:"share"`
		} `json:"shares"`
	} `json:"answers"`
	Revocation struct {
		Domain string `json:"domain"`
		Nodes  []struct {
			Node           string  `json:"node"`
			LastTokenMS    float64 `json:"last_token_ms"`
			TokensBefore   int     `json:"tokens_before"`
			TokensAfter    int     `json:"tokens_after"`
			BlobGone       bool    `json:"blob_gone"`
			NoticeInLedger bool    `json:"notice_in_ledger"`
			Frozen         bool    `json:"frozen"`
		} `json:"nodes"`
		BitsBefore   float64  `json:"bits_before"`
		BitsAfter    float64  `json:"bits_after"`
		StillServing []string `json:"still_serving"`
	} `json:"revocation"`
}

// The demo's claims bound its time and memory on 2 cores.
const demoLimit = 3 * time.Minute

func demoTrial() *cobra.Command {
	var seeds int
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run `chorus demo` for several seeds and check what it claims",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return runDemos(c.Context(), seeds) },
	}
	c.Flags().IntVar(&seeds, "seeds", 3, "seeds 1 to N")
	return c
}

func runDemos(ctx context.Context, seeds int) error {
	dir, chorus, err := trialFolder(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &tally{}
	for seed := 1; seed <= seeds; seed++ {
		fmt.Printf("seed %d\n", seed)
		c := interruptible(ctx, chorus, "demo", "--json", "--seed", strconv.Itoa(seed), "--dir", filepath.Join(dir, strconv.Itoa(seed)))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := c.Start(); err != nil {
			return err
		}
		var r demoReport
		decoding := json.NewDecoder(out).Decode(&r)
		_, _ = io.Copy(io.Discard, out)
		if err := c.Wait(); err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
		if decoding != nil {
			return fmt.Errorf("seed %d: reading the demo's report: %w", seed, decoding)
		}
		wall := time.Since(began)
		t.check(wall < demoLimit, "the demo takes under %v: %v, peak memory %s", demoLimit, wall.Round(time.Second), peakMemory(c.ProcessState))
		t.demo(r)
	}
	return t.verdict()
}

// A tally prints claims as they are checked, and counts those that do not hold.
type tally struct{ held, broken int }

func (t *tally) check(ok bool, format string, args ...any) {
	mark := "  holds   "
	if ok {
		t.held++
	} else {
		mark = "  BROKEN  "
		t.broken++
	}
	fmt.Printf(mark+format+"\n", args...)
}

func (t *tally) verdict() error {
	fmt.Printf("%d claims hold, %d are broken\n", t.held, t.broken)
	if t.broken > 0 {
		return fmt.Errorf("%d claims are broken", t.broken)
	}
	return nil
}

// demo checks what the demo showed.
func (t *tally) demo(r demoReport) {
	n := len(r.BitsPerByte)
	if n < 3 {
		t.check(false, "the demo's report has a table of models")
		return
	}
	anchor, average, mixture := r.BitsPerByte[0], r.BitsPerByte[n-2], r.BitsPerByte[n-1]
	for _, d := range r.Domains {
		t.check(mixture.Values[d] < anchor.Values[d], "%s: the mixture beats the anchor: %.3f against %.3f bits per byte", d, mixture.Values[d], anchor.Values[d])
	}
	t.check(mixture.Mean < average.Mean, "mean of the domains: the mixture beats the average of weights: %.3f against %.3f", mixture.Mean, average.Mean)
	for _, a := range r.Answers {
		best, total := "", 0.0
		most := 0.0
		for _, s := range a.Shares {
			total += s.Share
			if s.Domain != "" && s.Share > most {
				best, most = s.Domain, s.Share
			}
		}
		t.check(total > 0.999999 && total < 1.000001, "an answer in %s: the shares add up to 1", a.Domain)
		t.check(best == a.Domain, "an answer in %s: of the experts, its own does most of the work (%s, %.0f %%)", a.Domain, best, 100*most)
	}
	v := r.Revocation
	for _, o := range v.Nodes {
		t.check(o.BlobGone && o.NoticeInLedger && o.Frozen, "%s: blob gone, notice in the ledger, attribution frozen", o.Node)
		t.check(o.TokensBefore > 0 && o.TokensAfter > 0, "%s: the answer went on: %d tokens with the expert, the last %.1f ms after the command, then %d without", o.Node, o.TokensBefore, o.LastTokenMS, o.TokensAfter)
	}
	t.check(len(v.StillServing) == 0, "no member serves the revoked blob")
	t.check(v.BitsAfter > v.BitsBefore, "%s falls back without its expert: %.3f to %.3f bits per byte", v.Domain, v.BitsBefore, v.BitsAfter)
}
