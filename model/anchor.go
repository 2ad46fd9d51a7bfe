package model

import (
	"fmt"
	"os"
	"path/filepath"

	"chorus/durable"
	"chorus/model/safetensors"
	"chorus/model/tokenizer"
)

// LoadAnchor opens an anchor's folder: a checkpoint of one expert, the public FFN, and its tokenizer. It costs
// no more than reading names and shapes: see [OpenCheckpoint].
func LoadAnchor(dir string) (*Anchor, *tokenizer.Tokenizer, error) {
	k, err := OpenCheckpoint(dir)
	if err != nil {
		return nil, nil, err
	}
	if k.Config.Experts != 1 {
		return nil, nil, fmt.Errorf("%s: num_experts is %d, expected 1: an anchor has the public FFN alone (`chorus anchor import` takes slot 0 of a larger model)",
			filepath.Join(dir, ConfigFile), k.Config.Experts)
	}
	tok, err := k.tokenizer()
	if err != nil {
		return nil, nil, err
	}
	a, err := k.Anchor()
	if err != nil {
		return nil, nil, err
	}
	return a, tok, nil
}

// tokenizer loads the tokenizer and checks that the embedding has a row for each of its tokens.
func (k *Checkpoint) tokenizer() (*tokenizer.Tokenizer, error) {
	path := filepath.Join(k.dir, TokenizerFile)
	tok, err := tokenizer.Load(path)
	if err != nil {
		return nil, err
	}
	if tok.VocabSize() > k.Config.VocabSize {
		return nil, fmt.Errorf("%s: the tokenizer has %d tokens and the embedding only %d", path, tok.VocabSize(), k.Config.VocabSize)
	}
	return tok, nil
}

// CheckFinite reads all weights and refuses NaN and infinities. It is for an anchor that comes from elsewhere, once.
func (a *Anchor) CheckFinite() error { return a.checkpoint.CheckFinite() }

// SaveAnchor writes an anchor's folder that [LoadAnchor] reads, with the tensors in bfloat16. The
// folder appears whole or not at all.
func SaveAnchor(dir string, c Config, tok *tokenizer.Tokenizer, tensors []Tensor) error {
	config, err := c.Marshal()
	if err != nil {
		return err
	}
	return durable.Folder(dir, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, ConfigFile), config, 0o600); err != nil {
			return err
		}
		if err := tok.Save(filepath.Join(dir, TokenizerFile)); err != nil {
			return err
		}
		return safetensors.Write(filepath.Join(dir, WeightsFile), rounded(tensors), map[string]string{"format": "pt"})
	})
}

// A Tensor is a named array of float32, for saving.
type Tensor struct {
	Name   string
	Shape  []int
	Values []float32
}

func rounded(tensors []Tensor) []safetensors.Tensor {
	var out []safetensors.Tensor
	for _, t := range tensors {
		out = append(out, safetensors.FromFloat32(t.Name, safetensors.BF16, t.Shape, t.Values))
	}
	return out
}
