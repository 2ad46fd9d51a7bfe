package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"chorus/durable"
	"chorus/model/eval/leak"

	"github.com/spf13/cobra"
)

// A planting is what `chorus train` was told about canaries.
type planting struct{ count, repeats int }

func (p *planting) flags(c *cobra.Command) {
	c.Flags().IntVar(&p.count, "canaries", 0, "plant made-up secrets in the text, each of so many with a chance of one half, for \"chorus audit\" to look for")
	c.Flags().IntVar(&p.repeats, "canary-repeats", 1, "how often to plant each; only once says what a single document risks")
}

// check refuses what says nothing.
func (p planting) check() error {
	if p.count == 0 && p.repeats != 1 {
		return usageError{errors.New("--canary-repeats: there is nothing to repeat: say how many to plant with --canaries")}
	}
	return nil
}

// canaryPath is where training leaves what canaries it planted. Whoever reads it knows them all.
func canaryPath(expert string) string { return expert + ".canaries.json" }

// plant returns the canaries to plant in the text of an expert. Their seed lies beside the expert before training begins, so that training that was
// interrupted goes on with the same.
func (p planting) plant(expert string) ([]string, error) {
	path := canaryPath(expert)
	if p.count == 0 {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		c, err := leak.NewCanaries(p.count, p.repeats)
		if err != nil {
			return nil, usageError{err}
		}
		if b, err = json.Marshal(c); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		return c.Texts(), durable.WriteFile(path, durable.Bytes(b))
	} else if err != nil {
		return nil, err
	}
	c, err := leak.ParseCanaries(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.Count != p.count || c.Repeats != p.repeats {
		return nil, withHint(fmt.Errorf("%s has %d canaries, each %d times: training was begun with those", path, c.Count, c.Repeats), "train on with the same, or remove that file to begin anew")
	}
	return c.Texts(), nil
}
