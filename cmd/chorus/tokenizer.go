package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"chorus/model/tokenizer"
	"chorus/model/train"

	"github.com/spf13/cobra"
)

// tokenizerTextBytes bounds the text that a tokenizer learns from; a larger source is sampled.
const tokenizerTextBytes = 256 << 20

// byteTokens is how many tokens every vocabulary begins with, besides the special ones.
const byteTokens = 256

func (a *app) tokenizerCommand() *cobra.Command {
	c := &cobra.Command{Use: "tokenizer", Short: "Make a vocabulary that fits your text"}
	group(c)
	c.AddCommand(a.tokenizerTrain())
	return c
}

func (a *app) tokenizerTrain() *cobra.Command {
	var data, specials []string
	var size int
	var out string
	c := &cobra.Command{
		Use:   "train --data PATH",
		Short: "Train a byte-level BPE tokenizer on text",
		Long: `Learns a vocabulary from text and writes it as a tokenizer.json, which Hugging Face's tokenizers
library reads too and encodes with to the same ids. The same text gives the same file. A tenth of the
documents is held out, as training a model does, and says how many bytes a token has. Interrupted,
it leaves nothing and begins anew when it is run again.`,
		Example: `  chorus tokenizer train --data ./wikipedia --vocab-size 32000 --out tokenizer.json`,
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			switch least := byteTokens + len(specials); {
			case len(data) == 0:
				return usageError{errors.New("name the text to learn from with --data PATH")}
			case size < least:
				return usageError{fmt.Errorf("--vocab-size %d: expected %d or more, for the %d bytes and %d special tokens", size, least, byteTokens, len(specials))}
			case exists(out):
				return withHint(fmt.Errorf("%s: %w", out, fs.ErrExist), "name another file with --out, or remove this one")
			}
			r, err := a.trainTokenizer(c.Context(), data, size, specials, out)
			if err != nil {
				return err
			}
			return a.result(r, func() {
				a.say("%s has %s tokens, learned from %s of text; a token has %.2f bytes of text held out", out,
					thousands(int64(r.Tokens)), megabytes(r.TextBytes), r.BytesPerToken)
				if r.Tokens < size {
					a.say("There are no more: nothing else occurs twice. Give more text for a larger vocabulary.")
				}
			})
		},
	}
	c.Flags().StringArrayVar(&data, "data", nil, "a file, or a folder of .txt, .md, .jsonl, .jsonl.gz (repeatable)")
	c.Flags().IntVar(&size, "vocab-size", 32000, "how many tokens to learn, bytes and special ones among them")
	c.Flags().StringArrayVar(&specials, "special", []string{endOfText}, "a token that text cannot spell (repeatable)")
	c.Flags().StringVar(&out, "out", "tokenizer.json", "file to write; it must not exist")
	return c
}

// tokenizerReport is what `chorus tokenizer train --json` prints.
type tokenizerReport struct {
	Path          string  `json:"path"`
	Tokens        int     `json:"tokens"`
	TextBytes     int64   `json:"text_bytes"`      // learned from
	BytesPerToken float64 `json:"bytes_per_token"` // of what was held out
}

func (a *app) trainTokenizer(ctx context.Context, data []string, size int, specials []string, out string) (r tokenizerReport, err error) {
	corpus, err := train.ReadCorpus(tokenizerTextBytes, nil, data...)
	if errors.Is(err, train.ErrNoText) {
		return r, withHint(err, "name a file, or a folder of .txt, .md, .jsonl or .jsonl.gz, with --data PATH")
	} else if err != nil {
		return r, err
	}
	r.Path = out
	for _, text := range corpus.Train {
		r.TextBytes += int64(len(text))
	}
	counting := a.task("text", r.TextBytes)
	merging := (*task)(nil)
	tok, err := tokenizer.TrainReporting(counted(ctx, corpus.Train, counting), size, specials, func(tokens int) error {
		if merging == nil {
			counting.end()
			merging = a.task("tokens", int64(size))
		}
		merging.set(int64(tokens), "%s tokens", thousands(int64(tokens)))
		return ctx.Err()
	})
	if merging != nil {
		merging.end()
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case err != nil:
		return r, usageError{err} // of its arguments: the texts cannot be wrong
	}
	if err := tok.Save(out); err != nil {
		return r, err
	}
	r.Tokens = tok.VocabSize()
	var bytes, tokens int
	for _, text := range corpus.Heldout {
		bytes += len(text)
		tokens += len(tok.Encode(text))
	}
	r.BytesPerToken = float64(bytes) / float64(tokens)
	return r, nil
}

// counted yields texts until ctx ends, and says how many bytes of them t has seen.
func counted(ctx context.Context, texts []string, t *task) iter.Seq[string] {
	return func(yield func(string) bool) {
		done := int64(0)
		for _, text := range texts {
			if ctx.Err() != nil || !yield(text) {
				return
			}
			done += int64(len(text))
			t.set(done, "%s", megabytes(done))
		}
	}
}
