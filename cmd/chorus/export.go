package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chorus/model"
	"chorus/node"

	"github.com/spf13/cobra"
)

func (a *app) anchorImport() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "import DIR",
		Short: "Take over an anchor from a Hugging Face folder",
		Long: `Makes an anchor's folder of an Olmo2ForCausalLM, or of slot 0 of a FlexOlmoForCausalLM: its
configuration, tokenizer and weights, single or in shards, which keep their bytes. They are checked
first: names, shapes, and that no weight is NaN.`,
		Example: `  chorus anchor import ./OLMo-2-1124-7B --out anchor
  chorus charter new hearts north.json --anchor anchor`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			report, end := a.transfer("anchor")
			err := model.ImportAnchor(c.Context(), out, given[0], report)
			end()
			if errors.Is(err, fs.ErrExist) {
				return withHint(err, "name another folder with --out")
			} else if err != nil {
				return err
			}
			anchor, _, err := model.LoadAnchor(out)
			if err != nil {
				return err
			}
			return a.result(map[string]any{"folder": out, "parameters": anchor.Parameters()}, func() {
				a.say("the anchor is in %s: %s parameters, vocabulary of %d", out, thousands(anchor.Parameters()), anchor.Config.VocabSize)
			})
		},
	}
	c.Flags().StringVar(&out, "out", "anchor", "folder to write the anchor to; it must not exist")
	return c
}

func (a *app) exportCommand() *cobra.Command {
	var o model.ExportOptions
	shard := 5.0
	c := &cobra.Command{
		Use:   "export DIR",
		Short: "Write the mixture as a folder that transformers loads",
		Long: `Writes the anchor and every expert that the running node uses as a FlexOlmoForCausalLM: configuration,
tokenizer and sharded safetensors, which transformers and vLLM load without code of chorus.

Two things that format cannot hold: the bias of an expert's row in the router, and a low-rank expert
other than multiplied out and rounded. Where the mixture has them the export is refused, unless --lossy
accepts it: answers will then differ from this node's.

An export is a copy that no revocation reaches. The ledger notes it with the experts that it holds, and the node tells their owners that
and when it was made. When an owner of one leaves, "chorus experts" and "chorus status" name the folder for as long as it is there. Delete it
then.`,
		Example: `  chorus export ./hearts-moe
  chorus export ./hearts-moe --lossy`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			if !(shard > 0 && shard <= 1e6) {
				return usageError{fmt.Errorf("--shard-gb %v: expected a size above 0", shard)}
			}
			o.ShardBytes = max(1, int64(shard*1e9))
			held, err := a.inUse(c.Context())
			if err != nil {
				return err
			}
			anchor, _, err := a.openAnchor()
			if err != nil {
				return err
			}
			var experts []namedExpert
			made := false
			err = a.whileInUse(c.Context(), held, func(ctx context.Context) (err error) {
				var mixture *model.Mixture
				if experts, mixture, err = open(held, anchor); err != nil {
					return err
				}
				var end func()
				o.Report, end = a.transfer("export")
				defer func() { end() }()
				o.Begin = func() error { return a.recordExport(ctx, given[0], held) }
				err = model.SaveCheckpoint(ctx, given[0], mixture, o)
				made = err == nil
				return err
			})
			switch {
			case err != nil && made:
				return errors.Join(err, os.RemoveAll(given[0]))
			case errors.Is(err, model.ErrLossy):
				return withHint(err, "accept the loss with --lossy")
			case errors.Is(err, fs.ErrExist):
				return withHint(err, "name a folder that does not exist")
			case err != nil:
				return err
			}
			names := []string{"the anchor"}
			for _, e := range experts {
				names = append(names, e.name)
			}
			return a.result(map[string]any{"folder": given[0], "slots": names}, func() {
				a.say("%s holds %s", given[0], list(names))
			})
		},
	}
	c.Flags().BoolVar(&o.Lossy, "lossy", false, "drop biases, and round what low-rank experts come to")
	c.Flags().Float64Var(&shard, "shard-gb", shard, "the most gigabytes in one file")
	return c
}

// recordExport has the node note an export before it is made: of the anchor alone there is nothing to note.
func (a *app) recordExport(ctx context.Context, dir string, experts []node.Expert) error {
	if len(experts) == 0 {
		return nil
	}
	var e node.Export
	for _, x := range experts {
		e.Offers = append(e.Offers, x.Offer)
	}
	var err error
	if e.Folder, err = filepath.Abs(dir); err != nil {
		return err
	}
	client, err := node.Dial(ctx, a.node())
	if err != nil {
		return err
	}
	return client.RecordExport(ctx, e)
}
