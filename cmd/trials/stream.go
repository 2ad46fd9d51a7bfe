package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func streamTrial() *cobra.Command {
	var gigabytes float64
	c := &cobra.Command{
		Use:   "stream",
		Short: "Train on more text than memory is meant to hold, and interrupt training",
		Long: `Makes up a text of two gigabytes, with some of it broken, trains an anchor on it, and measures the memory. Then it
interrupts a training on less text again and again, and compares what comes out with that of one which ran undisturbed. It takes five minutes and
5 GB of disk.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runStream(c.Context(), gigabytes) },
	}
	c.Flags().Float64Var(&gigabytes, "gigabytes", 2, "of text")
	return c
}

// streamMemory is what training may take at the most, however long the text.
const streamMemory = 400 << 20

func runStream(ctx context.Context, gigabytes float64) error {
	dir, chorus, err := trialFolder(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &tally{}
	large := filepath.Join(dir, "large")
	made, err := makeText(large, int64(gigabytes*1e9))
	if err != nil {
		return err
	}
	report, err := trainStream(ctx, chorus, large, filepath.Join(dir, "anchor"), 0)
	if err != nil {
		return err
	}
	skipped := report.Text.Skipped
	t.check(report.PeakMemory < streamMemory, "training on %.1f GB of text takes %d MB of memory at the most", gigabytes, report.PeakMemory/1e6)
	t.check(skipped.NotText == made.broken && skipped.Duplicate == made.repeated, "what is no text is skipped, %d pieces, and what was there before, %d documents",
		skipped.NotText, skipped.Duplicate)
	if err := os.RemoveAll(large); err != nil {
		return err
	}

	small := filepath.Join(dir, "small")
	if _, err := makeText(small, 20e6); err != nil {
		return err
	}
	whole, again := filepath.Join(dir, "whole"), filepath.Join(dir, "again")
	if _, err := trainStream(ctx, chorus, small, whole, 0); err != nil {
		return err
	}
	sessions := 1
	for ; ; sessions++ {
		_, err := trainStream(ctx, chorus, small, again, time.Duration(4+2*sessions)*time.Second)
		if err == nil {
			break
		} else if ctx.Err() != nil || sessions > 100 {
			return err
		}
	}
	a, err := os.ReadFile(filepath.Join(whole, "model.safetensors"))
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(again, "model.safetensors"))
	if err != nil {
		return err
	}
	t.check(sessions > 2 && bytes.Equal(a, b), "interrupted %d times, training ends in the same bits", sessions-1)
	left, err := filepath.Glob(filepath.Join(dir, "*.training"))
	t.check(err == nil && len(left) == 0, "nothing of the text is left beside an anchor")
	return t.verdict()
}

// A streamReport is the part of report.json that the claims are about.
type streamReport struct {
	PeakMemory int64 `json:"peak_memory_bytes"`
	Text       struct {
		Skipped struct {
			NotText   int `json:"not_text"`
			Duplicate int `json:"duplicate"`
		} `json:"skipped"`
	} `json:"text"`
}

// trainStream trains an anchor on data, and if after is not 0, interrupts that after so long.
func trainStream(ctx context.Context, chorus, data, out string, after time.Duration) (r streamReport, err error) {
	if after > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, after)
		defer cancel()
	}
	c := interruptible(ctx, chorus, "anchor", "train", "--data", "public="+data, "--out", out, "--json")
	c.Stdout, c.Stderr = io.Discard, os.Stderr
	if err := c.Run(); err != nil && (c.ProcessState == nil || !c.ProcessState.Success()) { // it may have been done just then
		return r, fmt.Errorf("chorus anchor train: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(out+".report", "report.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// madeText is what [makeText] put into a text that is not to be trained on.
type madeText struct{ broken, repeated int }

// makeText fills the new folder dir with about size bytes of sentences: half of them in one long file, half of them in records, of which some are
// broken and some come twice.
func makeText(dir string, size int64) (made madeText, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return made, err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	words := strings.Fields(streamWords)
	document := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			for range 4 + rng.IntN(12) {
				b.WriteString(words[rng.IntN(1+rng.IntN(len(words)))])
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%d.\n", rng.IntN(1e6))
		}
		return b.String()
	}
	write := func(name string, fill func(w *bufio.Writer) error) error {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		w := bufio.NewWriterSize(f, 1<<20)
		if err := fill(w); err != nil {
			return err
		}
		return w.Flush()
	}
	err = write("long.txt", func(w *bufio.Writer) error {
		for n := int64(0); n < size/2; {
			d := document(2000 + rng.IntN(4000))
			n += int64(len(d)) + 1
			if _, err := fmt.Fprintln(w, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return made, err
	}
	err = write("records.jsonl", func(w *bufio.Writer) error {
		e := json.NewEncoder(w)
		for n := int64(0); n < size/2; {
			record := map[string]string{"text": document(500 + rng.IntN(6000))}
			n += int64(len(record["text"]))
			times := 1
			if rng.IntN(100) == 0 {
				times, made.repeated = 2, made.repeated+1
			}
			for range times {
				if err := e.Encode(record); err != nil {
					return err
				}
			}
			if rng.IntN(100) == 0 {
				made.broken++
				if _, err := w.WriteString("{\"text\": \"caf\xe9\"}\n"); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return made, err
	}
	made.broken++
	return made, write("image.md", func(w *bufio.Writer) error {
		_, err := w.Write(bytes.Repeat([]byte{0x89, 'P', 'N', 'G', 0, 0xff}, 1<<20))
		return err
	})
}

const streamWords = `the of and to in a is that it was for on are as with his they be at one have this from or had by not but what some we can out
other were all there when up use your how said an each she which do their time if will way about many then them write would like so these her long make
thing see him two has look more day could go come did number sound no most people my over know water than call first who may down side been now find
river meadow harvest letter window garden winter evening morning kitchen surgeon verdict ledger furnace harbour orchard lantern bridge`
