package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"chorus/model"

	"github.com/spf13/cobra"
)

// What the trial measures and claims.
const (
	largePrompt = 64 // tokens
	largeAnswer = 16 // tokens
	largeRounds = 9  // openings, each by a process of its own
	coldRounds  = 3
	smallShards = 1_000_000_000 // bytes in a file
	usualShards = 5_000_000_000 // as transformers has long split

	openLimit    = 100 * time.Millisecond
	growthLimit  = 5 * time.Millisecond // from 2 experts to 16, or
	growthFactor = 1.2
	tensorLimit  = 50 * time.Microsecond // for each tensor more
	memoryFactor = 1.1                   // of the weights' files
	otherBytes   = 100 << 20             // of disk, for all that is no weight
)

func largeTrial() *cobra.Command {
	var dir string
	var keep bool
	c := &cobra.Command{
		Use:   "large",
		Short: "Open, run and import a checkpoint of the 7x7B's sizes",
		Long: `Makes up a FlexOlmoForCausalLM with the sizes of the published 7x7B but 2 layers, 5.7 GB, and measures in
processes of their own how long it takes to open, from 2 to 16 experts and in every layout; how fast it answers and in
how much memory; and its import as an anchor. It needs Linux, 8.3 GB of disk, as much free memory as the weights
are large, and about three minutes; as root it also measures with nothing cached.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runLarge(c.Context(), dir, keep) },
	}
	c.Flags().StringVar(&dir, "dir", "", "folder with room for the checkpoint; default: a temporary one")
	c.Flags().BoolVar(&keep, "keep", false, "leave the checkpoint in the folder, where the next run finds it")
	c.AddCommand(largePart())
	return c
}

// A largeRun is one run of the trial.
type largeRun struct {
	*tally
	ctx context.Context
	dir string
}

func runLarge(ctx context.Context, dir string, keep bool) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chorus-trial-"); err != nil {
			return err
		}
		if !keep {
			defer os.RemoveAll(dir)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	r := &largeRun{&tally{}, ctx, dir}
	whole := madeUp{layers: 2, experts: 7, shard: smallShards}
	checkpoint := filepath.Join(dir, "chorus-trial-large")
	if !keep {
		defer os.RemoveAll(checkpoint)
	}
	if err := r.prepare(checkpoint, whole); err != nil {
		return err
	}
	fmt.Printf("%s of weights, %d threads, %s\n", gigabytes(whole.size(false)), runtime.GOMAXPROCS(0), runtime.GOARCH)
	if err := r.opening(checkpoint, whole); err != nil {
		return err
	}
	if err := r.answering(checkpoint, whole); err != nil {
		return err
	}
	if err := r.importing(checkpoint, whole); err != nil {
		return err
	}
	if keep {
		fmt.Printf("the checkpoint is in %s\n", checkpoint)
	}
	return r.verdict()
}

// prepare writes the checkpoint, unless a run before has.
func (r *largeRun) prepare(checkpoint string, m madeUp) error {
	free, err := freeBytes(r.dir)
	if err != nil {
		return err
	}
	config, err := m.config().Marshal()
	if err != nil {
		return err
	}
	need := m.size(true) + otherBytes
	if there, err := os.ReadFile(filepath.Join(checkpoint, model.ConfigFile)); err == nil && bytes.Equal(there, config) {
		fmt.Printf("the checkpoint of a run before is in %s\n", checkpoint)
	} else {
		need += m.size(false)
	}
	fmt.Printf("%s of disk are needed, %s are free\n", gigabytes(need), gigabytes(free))
	if free < need {
		return fmt.Errorf("%s: %s are free, %s are needed: name a folder with more room with --dir", r.dir, gigabytes(free), gigabytes(need))
	}
	if need < m.size(false) {
		return nil
	}
	return m.write(r.ctx, checkpoint, func(line string) { fmt.Println("  " + line) })
}

// A largeReport is what one process measured: times in seconds, memory in bytes.
type largeReport struct {
	Opened    float64 // checkpoint and mixture
	First     float64 // from then to the first token
	Answered  float64 // from there to the last
	Finite    bool
	Peak      int64
	Anonymous int64
	Mapped    int64
}

// measure runs one part of the trial in a process of its own.
func (r *largeRun) measure(args ...string) (report largeReport, err error) {
	self, err := os.Executable()
	if err != nil {
		return report, err
	}
	c := exec.CommandContext(r.ctx, self, append([]string{"large", "part"}, args...)...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return report, fmt.Errorf("%v: %w", args, err)
	}
	return report, json.Unmarshal(out, &report)
}

// An openTime is what processes took to open the same folder, in seconds.
type openTime struct{ median, least float64 }

func (r *largeRun) opened(dir string, rounds int, before func() error) (openTime, error) {
	var times []float64
	for range rounds {
		if err := before(); err != nil {
			return openTime{}, err
		}
		report, err := r.measure("open", dir)
		if err != nil {
			return openTime{}, err
		}
		times = append(times, report.Opened)
	}
	return openTime{median(times), slices.Min(times)}, nil
}

// opening opens the checkpoint, and others that have holes for matrices.
func (r *largeRun) opening(checkpoint string, whole madeUp) error {
	warm := func() error { return nil }
	rows := [][]string{{"", "layers", "experts", "files", "tensors", "size", "ms", "least"}}
	open := func(name string, m madeUp, dir string, rounds int, before func() error) (openTime, error) {
		t, err := r.opened(dir, rounds, before)
		if err != nil {
			return t, err
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		rows = append(rows, []string{name, strconv.Itoa(m.layers), strconv.Itoa(m.experts), strconv.Itoa(len(files)),
			strconv.Itoa(len(m.parts())), gigabytes(m.size(false)), milliseconds(t.median), milliseconds(t.least)})
		return t, err
	}
	cached, err := open("written out, cached", whole, checkpoint, largeRounds, warm)
	if err != nil {
		return err
	}
	cold, coldErr := openTime{}, dropCaches()
	if coldErr == nil {
		if cold, err = open("written out, not cached", whole, checkpoint, coldRounds, dropCaches); err != nil {
			return err
		}
	}
	few, many := madeUp{layers: 2, experts: 2, shard: smallShards}, madeUp{layers: 2, experts: 16, shard: smallShards}
	fewWhole, manyWhole := madeUp{layers: 32, experts: 2, shard: usualShards}, madeUp{layers: 32, experts: 16, shard: usualShards}
	took := make(map[madeUp]openTime)
	for _, o := range []struct {
		name string
		m    madeUp
	}{
		{"one file", madeUp{layers: 2, experts: 7}},
		{"fused", madeUp{layers: 2, experts: 7, fused: true, shard: smallShards}},
		{"fused, one file", madeUp{layers: 2, experts: 7, fused: true}},
		{"", few},
		{"", madeUp{layers: 2, experts: 4, shard: smallShards}},
		{"", madeUp{layers: 2, experts: 8, shard: smallShards}},
		{"", many},
		{"all layers", fewWhole},
		{"all layers", madeUp{layers: 32, experts: 7, shard: usualShards}},
		{"all layers", manyWhole},
		{"all layers, fused", madeUp{layers: 32, experts: 16, fused: true, shard: usualShards}},
	} {
		sparse := o.m
		sparse.sparse = true
		dir := filepath.Join(r.dir, "chorus-trial-sparse")
		err := sparse.write(r.ctx, dir, func(string) {})
		if err == nil {
			took[o.m], err = open(o.name, o.m, dir, largeRounds, warm)
		}
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
	}
	fmt.Printf("\nOpening and assembling the mixture, median and least of %d processes; holes in place of matrices unless written out\n", largeRounds)
	table(rows)
	limit := openLimit.Seconds()
	r.check(cached.median < limit, "%s open in less than %v: %s ms", gigabytes(whole.size(false)), openLimit, milliseconds(cached.median))
	if coldErr == nil {
		r.check(cold.median < limit, "with nothing cached too: %s ms", milliseconds(cold.median))
	} else {
		fmt.Printf("  skipped with nothing cached: %v\n", coldErr)
	}
	a, b := took[few].least, took[many].least // what else runs here disturbs these the least
	r.check(b < max(growthFactor*a, a+growthLimit.Seconds()), "16 experts open in about the time of 2: %s ms and %s ms, %.0f µs for each",
		milliseconds(b), milliseconds(a), 1e6*(b-a)/float64(many.experts-few.experts))
	r.check(took[manyWhole].median < limit, "all 32 layers of 16 experts, %s, open in less than %v: %s ms",
		gigabytes(manyWhole.size(false)), openLimit, milliseconds(took[manyWhole].median))
	each := (took[manyWhole].least - took[fewWhole].least) / float64(len(manyWhole.parts())-len(fewWhole.parts()))
	r.check(each < tensorLimit.Seconds(), "what grows is the list of tensors: %.1f µs for each", 1e6*each)
	return nil
}

// answering generates, first with nothing cached.
func (r *largeRun) answering(checkpoint string, whole madeUp) error {
	rows := [][]string{{"", "k", "first token s", "tokens/s", "peak", "of it in mapped files", "not in files"}}
	var reports []largeReport
	run := func(name string, k int) error {
		report, err := r.measure("answer", checkpoint, strconv.Itoa(k))
		reports = append(reports, report)
		rows = append(rows, []string{name, strconv.Itoa(k), fmt.Sprintf("%.2f", report.First),
			fmt.Sprintf("%.2f", (largeAnswer-1)/report.Answered), gigabytes(report.Peak), gigabytes(report.Mapped), gigabytes(report.Anonymous)})
		return err
	}
	if dropCaches() == nil {
		if err := run("not cached", whole.experts); err != nil {
			return err
		}
	}
	for _, k := range []int{whole.experts, 5} {
		if err := run("cached", k); err != nil {
			return err
		}
	}
	fmt.Printf("\nA prompt of %d tokens and an answer of %d\n", largePrompt, largeAnswer)
	table(rows)
	size := float64(whole.size(false))
	for i, report := range reports {
		name := "k = " + rows[1+i][1] + ", " + rows[1+i][0]
		r.check(report.Finite, "%s: every logit is a number", name)
		r.check(float64(report.Peak) <= memoryFactor*size, "%s: at most the weights' size and a tenth is resident: %s, %+.1f %%",
			name, gigabytes(report.Peak), 100*(float64(report.Peak)/size-1))
	}
	return nil
}

// importing makes an anchor of slot 0, by the command.
func (r *largeRun) importing(checkpoint string, whole madeUp) error {
	dir, err := os.MkdirTemp(r.dir, "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	chorus, err := buildChorus(r.ctx, dir)
	if err != nil {
		return err
	}
	c := exec.CommandContext(r.ctx, chorus, "anchor", "import", checkpoint, "--out", filepath.Join(dir, "anchor"))
	began := time.Now()
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	seconds := time.Since(began).Seconds()
	size, peak := whole.size(true), peakBytes(c.ProcessState)
	fmt.Println("\n`chorus anchor import`, slot 0")
	table([][]string{
		{"size", "s", "MB/s", "peak"},
		{gigabytes(size), fmt.Sprintf("%.1f", seconds), fmt.Sprintf("%.0f", float64(size)/1e6/seconds), gigabytes(peak)},
	})
	r.check(float64(peak) <= memoryFactor*float64(size), "at most the size of what is imported and a tenth is resident: %+.1f %%", 100*(float64(peak)/float64(size)-1))
	return nil
}

// largePart is what the trial runs in processes of their own.
func largePart() *cobra.Command {
	part := &cobra.Command{Use: "part", Short: "One measurement, as JSON", Hidden: true}
	add := func(use string, n int, measure func(args []string, r *largeReport) error) {
		part.AddCommand(&cobra.Command{Use: use, Args: cobra.ExactArgs(n), RunE: func(_ *cobra.Command, args []string) error {
			var r largeReport
			err := measure(args, &r)
			if err != nil {
				return err
			}
			if r.Peak, r.Anonymous, r.Mapped, err = thisMemory(); err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(r)
		}})
	}
	add("open DIR", 1, func(args []string, r *largeReport) error {
		_, err := openLarge(args[0], r)
		return err
	})
	add("answer DIR K", 2, func(args []string, r *largeReport) error {
		k, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		m, err := openLarge(args[0], r)
		if err != nil {
			return err
		}
		m.TopK = k
		return answerLarge(m, r)
	})
	return part
}

func openLarge(dir string, r *largeReport) (*model.Mixture, error) {
	began := time.Now()
	k, err := model.OpenCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	m, err := k.Mixture()
	r.Opened = time.Since(began).Seconds()
	return m, err
}

// answerLarge takes the likeliest token each time.
func answerLarge(m *model.Mixture, r *largeReport) error {
	prompt := make([]int32, largePrompt)
	for i := range prompt {
		prompt[i] = int32(i * 1543 % m.Anchor.Config.VocabSize)
	}
	began := time.Now()
	s := m.NewSequence()
	logits, err := s.Extend(prompt)
	if err != nil {
		return err
	}
	r.Finite = true
	next := best(logits, r)
	r.First = time.Since(began).Seconds()
	for range largeAnswer - 1 {
		if logits, err = s.Extend([]int32{next}); err != nil {
			return err
		}
		next = best(logits, r)
	}
	r.Answered = time.Since(began).Seconds() - r.First
	return nil
}

// best returns the likeliest token, and notes what is no number.
func best(logits []float32, r *largeReport) int32 {
	at := 0
	for i, v := range logits {
		if v > logits[at] {
			at = i
		}
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			r.Finite = false
		}
	}
	return int32(at)
}
