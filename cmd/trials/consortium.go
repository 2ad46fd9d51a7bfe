package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/tokenizer"
	"chorus/node"

	"github.com/ipfs/go-cid"
)

// tiny is a model that computes a token in microseconds, so that what a trial measures is not the arithmetic.
var tiny = model.Config{
	HiddenSize: 16, IntermediateSize: 24, Layers: 2, Heads: 2, KVHeads: 2,
	MaxPositions: 256, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{0},
}

// A consortium is a charter and its members' homes, with a tiny anchor of random weights. The first member is the
// steward.
type consortium struct {
	dir     string
	config  model.Config
	anchor  cid.Cid
	charter *notice.Notice
	homes   []node.Home
}

// found makes a consortium in dir. Member i has the API and, for other members, the address that its place gives.
func found(ctx context.Context, dir string, lease int64, places []place) (*consortium, error) {
	text := strings.Repeat("the cat sat on the mat, and the dog said: naïve café! ", 8)
	tok, err := tokenizer.Train(slices.Values([]string{text}), 300, []string{"<|endoftext|>"})
	if err != nil {
		return nil, err
	}
	c := &consortium{dir: dir, config: tiny}
	c.config.VocabSize = tok.VocabSize()
	c.config.Rope.Theta, c.config.Rope.Type = 10000, "default"
	tensors, src := randomTensors(1)
	if _, err := model.BuildAnchor(c.config, src); err != nil {
		return nil, err
	}
	for _, t := range *tensors {
		if t.Name == "lm_head.weight" {
			clear(t.Values[:c.config.HiddenSize]) // the mark of the end is never the most likely
		}
	}
	anchor := filepath.Join(dir, "anchor")
	if err := model.SaveAnchor(anchor, c.config, tok, *tensors); err != nil {
		return nil, err
	}
	charter := &notice.Charter{
		Name: "trial", Version: 1, Quorum: 1,
		LeaseSeconds: lease, LeaseCeilingSeconds: lease, MaxBlobBytes: 1 << 20, OffersPerDay: 10_000,
	}
	for i, p := range places {
		name := fmt.Sprintf("m%02d", i)
		h := node.Home(filepath.Join(dir, name))
		if err := h.Init(node.Config{Member: name, Listen: []string{p.listen}, Peers: []string{}, API: p.api}); err != nil {
			return nil, err
		}
		m, err := h.Member(name)
		if err != nil {
			return nil, err
		}
		if c.anchor, err = h.ImportAnchor(ctx, anchor); err != nil {
			return nil, err
		}
		charter.Members = append(charter.Members, m)
		c.homes = append(c.homes, h)
	}
	charter.Anchor, charter.Stewards = c.anchor, []string{charter.Members[0].Name}
	key, err := c.homes[0].PublishingKey()
	if err != nil {
		return nil, err
	}
	if c.charter, err = notice.Sign(charter, key); err != nil {
		return nil, err
	}
	for _, h := range c.homes {
		err = errors.Join(err, h.SetCharter(c.charter))
	}
	return c, err
}

// A place is where a node listens.
type place struct {
	listen string // for other members, a multiaddr
	api    string // for local programs, host:port
}

// befriend has member i know the addresses of peers.
func (c *consortium) befriend(i int, peers []string) error {
	config, err := c.homes[i].Config()
	if err != nil {
		return err
	}
	config.Peers = peers
	return c.homes[i].SetConfig(config)
}

// expert writes an expert of random weights, as a training would leave it, and returns what to publish of it.
func (c *consortium) expert(seed uint64) (node.Publication, error) {
	tensors, src := randomTensors(seed)
	if _, err := model.BuildExpert(c.config, src); err != nil {
		return node.Publication{}, err
	}
	path := filepath.Join(c.dir, fmt.Sprintf("expert-%d.safetensors", seed))
	return node.Publication{
		Path: path, Domain: "cats", Licence: "CC0-1.0", WithinSeconds: 60,
		Metrics: notice.Metrics{HeldoutBytes: 10, AnchorBitsPerByte: 2, ExpertBitsPerByte: 1},
	}, model.SaveExpert(path, c.anchor.String(), *tensors)
}

// randomTensors returns a source of random weights and what it gave.
func randomTensors(seed uint64) (*[]model.Tensor, model.Source) {
	rng := rand.New(rand.NewPCG(seed, 0))
	given := new([]model.Tensor)
	return given, func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		v := make([]float32, n)
		for i := range v {
			switch {
			case strings.HasSuffix(name, "bias"):
			case len(shape) == 1 && !strings.HasSuffix(name, "router.weight"):
				v[i] = 1
			default:
				v[i] = float32(rng.NormFloat64()) / 2
			}
		}
		*given = append(*given, model.Tensor{Name: name, Shape: shape, Values: v})
		return v, nil
	}
}
