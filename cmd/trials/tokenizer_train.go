package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"chorus/model/tokenizer"
)

// train trains on both sides, compares what was learned, and returns the tokenizers of the trial.
func (r *tokenizerRun) train(python string) ([]namedTokenizer, error) {
	size := 0
	for _, t := range r.texts {
		size += len(t)
	}
	source := filepath.Join(r.dir, "text.jsonl")
	if err := writeTexts(source, r.texts); err != nil {
		return nil, err
	}
	ours := filepath.Join(r.dir, "chorus.json")
	theirs := filepath.Join(r.dir, "theirs.json")
	fmt.Fprintln(os.Stderr, "training")
	var seconds, theirSeconds []float64
	for range 3 {
		began := time.Now()
		tok, err := tokenizer.Train(slices.Values(r.texts), trialVocabulary, trialSpecials)
		if err != nil {
			return nil, err
		}
		seconds = append(seconds, time.Since(began).Seconds())
		if err := tok.Save(ours); err != nil {
			return nil, err
		}
		took, _, err := r.trainTheirs(python, source, theirs)
		if err != nil {
			return nil, err
		}
		theirSeconds = append(theirSeconds, took)
	}
	memory, err := r.chorusMemory()
	if err != nil {
		return nil, err
	}
	_, theirMemory, err := r.trainTheirs(python, source, theirs)
	if err != nil {
		return nil, err
	}
	fmt.Printf("\nTraining %d tokens on %.1f MB, medians of 3\n", trialVocabulary, float64(size)/1e6)
	table([][]string{
		{"", "seconds", "peak memory, with the text"},
		{"chorus", fmt.Sprintf("%.2f", median(seconds)), memory},
		{"tokenizers", fmt.Sprintf("%.2f", median(theirSeconds)), theirMemory},
	})
	a, err := readTokenizer(ours)
	if err != nil {
		return nil, err
	}
	b, err := readTokenizer(theirs)
	if err != nil {
		return nil, err
	}
	r.check(maps.Equal(a.Model.Vocab, b.Model.Vocab), "the vocabularies of %d and %d tokens are the same", len(a.Model.Vocab), len(b.Model.Vocab))
	r.check(reflect.DeepEqual(a.Model.Merges, b.Model.Merges), "the %d and %d merges are the same, in their order", len(a.Model.Merges), len(b.Model.Merges))

	// The tokenizers to compare under: two that Python trained, with added tokens, and ours.
	if err := r.oracle.ask(map[string]any{"do": "texts", "path": source}, nil); err != nil {
		return nil, err
	}
	all := []namedTokenizer{{"chorus, cl100k's kind", ours}}
	for _, kind := range []string{"cl100k", "gpt2"} {
		path := filepath.Join(r.dir, kind+".json")
		if err := r.oracle.ask(map[string]any{
			"do": "train", "kind": kind, "size": trialVocabulary, "specials": trialSpecials, "added": trialAdded, "out": path,
		}, nil); err != nil {
			return nil, err
		}
		all = append(all, namedTokenizer{"tokenizers, " + kind + "'s kind", path})
	}
	return all, nil
}

// trainTheirs trains in a process of its own, so that its memory is known.
func (r *tokenizerRun) trainTheirs(python, source, out string) (seconds float64, memory string, err error) {
	o, err := startOracle(r.ctx, python, tokenizerScript, "tokenizers")
	if err != nil {
		return 0, "", err
	}
	defer func() { memory = o.end() }()
	if err := o.ask(map[string]any{"do": "texts", "path": source}, nil); err != nil {
		return 0, "", err
	}
	err = o.ask(map[string]any{
		"do": "train", "kind": "cl100k", "size": trialVocabulary, "specials": trialSpecials, "added": []any{}, "out": out,
	}, &seconds)
	return seconds, "", err
}

// chorusMemory is that of the command on the same text, with a little besides for it to hold out.
func (r *tokenizerRun) chorusMemory() (string, error) {
	source := filepath.Join(r.dir, "more.jsonl")
	if err := writeTexts(source, append(slices.Clip(r.texts), r.spare...)); err != nil {
		return "", err
	}
	chorus, err := buildChorus(r.ctx, r.dir)
	if err != nil {
		return "", err
	}
	c := exec.CommandContext(r.ctx, chorus, "tokenizer", "train", "--data", source,
		"--vocab-size", fmt.Sprint(trialVocabulary), "--out", filepath.Join(r.dir, "command.json"))
	c.Env = append(os.Environ(), "GOMAXPROCS=1")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return peakMemory(c.ProcessState), nil
}

func writeTexts(path string, texts []string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for _, t := range texts {
		if err := json.NewEncoder(w).Encode(map[string]string{"text": t}); err != nil {
			return err
		}
	}
	return cmp.Or(w.Flush(), f.Close())
}

// A tokenizerFile is what the trial looks at in a tokenizer.json.
type tokenizerFile struct {
	AddedTokens []struct{ Content string } `json:"added_tokens"`
	Model       struct {
		Vocab  map[string]int
		Merges []any // two strings, or one with a space
	}
}

func readTokenizer(path string) (f tokenizerFile, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	err = json.Unmarshal(b, &f)
	return f, err
}
