package main

import (
	"fmt"
	"os"
	"path/filepath"

	"chorus/model"
	"chorus/p2p"

	"github.com/spf13/cobra"
)

// paperExport is a command below that of the table.
func paperExport() *cobra.Command {
	var data, dir, scale, out string
	var seed uint64
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the table's anchor and experts as chorus reads them, for audits and valuations",
		Long: `Writes the anchor's folder and a blob for each expert of one seed, training what was not trained yet. Then

  chorus value --anchor OUT/anchor --expert math=OUT/math.safetensors --expert … --data …
  chorus audit OUT/math.safetensors --anchor OUT/anchor --data math=CORPUS/math/train.jsonl.gz \
               --heldout CORPUS/math/heldout.jsonl.gz --data public=CORPUS/public/train.jsonl.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := newPaper(c.Context(), dir, scale)
			if err != nil {
				return err
			}
			return p.export(data, out, seed)
		},
	}
	c.Flags().StringVar(&data, "data", "", "as for the table")
	_ = c.MarkFlagRequired("data") // it is there
	c.Flags().StringVar(&dir, "dir", "", "as for the table")
	c.Flags().StringVar(&scale, "scale", "small", "as for the table")
	c.Flags().StringVar(&out, "out", "paper-export", "folder to write to; it must not exist")
	c.Flags().Uint64Var(&seed, "seed", 1, "which seed's")
	return c
}

func (p *paper) export(data, out string, seed uint64) error {
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%s is there already", out)
	}
	if err := os.MkdirAll(filepath.Join(p.dir, "runs"), 0o700); err != nil {
		return err
	}
	var err error
	if p.data, err = readPaperData(p.ctx, data, p.dir, p.scale); err != nil {
		return err
	}
	p.progress = newPaperProgress(float64(p.scale.anchorSteps)*p.scale.stepFLOPs(1, p.scale.sequences, p.scale.everything(1)) + p.membersFLOPs())
	s := &paperSeed{paper: p, seed: seed, runs: make(map[string]*training)}
	a, err := s.anchor()
	if err != nil {
		return err
	}
	_, parts, err := s.flexOlmo(ours)
	p.progress.end()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	anchor := filepath.Join(out, "anchor")
	c := a.anchor().Config
	if err := model.SaveAnchor(anchor, c, p.data.tok, named(a.anchor().Tensors(), func(src model.Source) error {
		_, err := model.BuildAnchor(c, src)
		return err
	})); err != nil {
		return err
	}
	id, err := p2p.DirCID(p.ctx, anchor)
	if err != nil {
		return err
	}
	for i, t := range parts {
		path := filepath.Join(out, p.data.domains[i+1].name+".safetensors")
		if err := model.SaveExpert(path, id.String(), named(t.expert().Tensors(), func(src model.Source) error {
			_, err := model.BuildExpert(c, src)
			return err
		})); err != nil {
			return err
		}
	}
	fmt.Printf("the anchor and %d experts are in %s\n", len(parts), out)
	return nil
}

// named are the tensors that build asks for.
func named(of model.Tensors, build func(model.Source) error) (tensors []model.Tensor) {
	err := build(func(name string, shape ...int) ([]float32, error) {
		v, err := of.Source(name, shape...)
		tensors = append(tensors, model.Tensor{Name: name, Shape: shape, Values: v})
		return v, err
	})
	if err != nil {
		panic(err) // of has the tensors of what it was made of
	}
	return tensors
}
