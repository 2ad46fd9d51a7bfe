package model

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"chorus/model/safetensors"
	"chorus/model/tokenizer"
)

// The files of an anchor's folder, in the ecosystem's own names.
const (
	ConfigFile    = "config.json"
	TokenizerFile = "tokenizer.json"
	WeightsFile   = "model.safetensors"
)

// maxConfig is the size in bytes of the largest config.json.
const maxConfig = 1 << 20

// ErrMisfit is wrapped by errors that say which tensor is not what the model needs.
var ErrMisfit = errors.New("does not fit the model")

// LoadAnchor reads an anchor's folder: a FlexOlmo checkpoint with one expert, the public FFN, and
// its tokenizer.
func LoadAnchor(dir string) (*Anchor, *tokenizer.Tokenizer, error) {
	path := filepath.Join(dir, ConfigFile)
	if info, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if info.Size() > maxConfig {
		return nil, nil, fmt.Errorf("%s: %d bytes, expected at most %d", path, info.Size(), maxConfig)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", dir, err)
	}
	if c.Experts != 1 {
		return nil, nil, fmt.Errorf("%s: num_experts is %d, expected 1: an anchor has the public FFN alone", path, c.Experts)
	}
	tok, err := tokenizer.Load(filepath.Join(dir, TokenizerFile))
	if err != nil {
		return nil, nil, err
	}
	if tok.VocabSize() > c.VocabSize {
		return nil, nil, fmt.Errorf("%s: the tokenizer has %d tokens and the embedding only %d", dir, tok.VocabSize(), c.VocabSize)
	}
	var a *Anchor
	if err := load(filepath.Join(dir, WeightsFile), func(_ map[string]string, src Source) (err error) {
		a, err = BuildAnchor(c, src)
		return err
	}); err != nil {
		return nil, nil, err
	}
	return a, tok, nil
}

// SaveAnchor writes an anchor's folder that [LoadAnchor] reads, with the tensors in bfloat16. The
// folder appears whole or not at all.
func SaveAnchor(dir string, c Config, tok *tokenizer.Tokenizer, tensors []Tensor) error {
	switch _, err := os.Stat(dir); {
	case err == nil:
		return fmt.Errorf("%s: %w", dir, fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o700); err != nil {
		return err
	}
	config, err := c.Marshal()
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(part, ConfigFile), config, 0o600),
		tok.Save(filepath.Join(part, TokenizerFile)),
		safetensors.Write(filepath.Join(part, WeightsFile), rounded(tensors), map[string]string{"format": "pt"}),
	); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

// Keys of an expert blob's metadata.
const (
	metaFormat = "format"
	metaAnchor = "anchor"
	formatName = "chorus-expert/1"
)

// LoadExpert reads an expert's blob, made for an anchor of configuration c. Every tensor must have
// the name and shape that the anchor implies, and no other may be there.
func LoadExpert(path string, c Config) (*Expert, error) {
	var e *Expert
	err := load(path, func(meta map[string]string, src Source) (err error) {
		if meta[metaFormat] != formatName {
			return fmt.Errorf("metadata %q is %q, expected %q", metaFormat, meta[metaFormat], formatName)
		}
		if e, err = BuildExpert(c, src); err == nil {
			e.Anchor, e.Metadata = meta[metaAnchor], meta
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// SaveExpert writes an expert's blob, trained against the anchor of that CID, in bfloat16. The same
// tensors and anchor give the same bytes.
func SaveExpert(path, anchor string, tensors []Tensor) error {
	return safetensors.Write(path, rounded(tensors), map[string]string{metaFormat: formatName, metaAnchor: anchor})
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

// load opens a safetensors file, lets build take tensors from it, and checks that it took all.
func load(path string, build func(meta map[string]string, src Source) error) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	taken := make(map[string]bool)
	src := func(name string, shape ...int) ([]float32, error) {
		t, ok := f.Tensor(name)
		if !ok {
			return nil, fmt.Errorf("%w: tensor %q is missing", ErrMisfit, name)
		}
		if !slices.Equal(t.Shape, shape) {
			return nil, fmt.Errorf("%w: tensor %q has shape %v, expected %v", ErrMisfit, name, t.Shape, shape)
		}
		taken[name] = true
		values := t.Float32s()
		for _, v := range values {
			if v-v != 0 {
				return nil, fmt.Errorf("%w: tensor %q holds %v, expected finite numbers", ErrMisfit, name, v)
			}
		}
		return values, nil
	}
	if err := build(f.Metadata(), src); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range f.Names() {
		if !taken[name] {
			return fmt.Errorf("%s: %w: tensor %q is not expected", path, ErrMisfit, name)
		}
	}
	return nil
}
