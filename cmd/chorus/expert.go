package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/tokenizer"
	"chorus/model/train"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

func (a *app) expertCommand() *cobra.Command {
	c := &cobra.Command{Use: "expert", Short: "Take over an expert that was trained elsewhere, or make one smaller"}
	group(c)
	c.AddCommand(a.expertImport(), a.expertCompress())
	return c
}

func (a *app) expertImport() *cobra.Command {
	var slot int
	var anchorDir, name, data string
	c := &cobra.Command{
		Use:   "import DIR --name NAME",
		Short: "Take over an expert from a FlexOlmo checkpoint",
		Long: `Takes the expert in one slot of a FlexOlmo checkpoint, such as PyTorch trained it on a cluster, and
leaves it as "chorus train" would, ready to be published. Everything outside the expert must be the
anchor's, bit by bit; the error names the first tensor that is not. DIR is a folder that transformers
reads, or one with the tensors of OLMo-core (w1, w2, w3), whose bias is taken over too.

With --data the expert is measured on that text, which it must not have been trained on; without it the
offer will say that it was not measured.`,
		Example: `  chorus expert import ./Flex-math-2x7B --slot 1 --name math
  chorus publish math`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			if !validName(name) {
				return usageError{errors.New("give the expert a name of a-z, 0-9 and - with --name")}
			}
			path, err := a.newExpert(name)
			if err != nil {
				return err
			}
			anchor, tok, id, err := a.anchorFor(c.Context(), anchorDir)
			if err != nil {
				return err
			}
			report, end := a.transfer(name)
			err = model.ImportExpert(c.Context(), path, given[0], slot, anchor, id.String(), report)
			end()
			if err != nil {
				return err
			}
			return a.finishExpert(c.Context(), name, data, anchor, tok)
		},
	}
	c.Flags().IntVar(&slot, "slot", 1, "which expert of the checkpoint; 0 is the public one")
	c.Flags().StringVar(&anchorDir, "anchor", "", "the anchor's folder (default: the anchor of this data folder's charter)")
	c.Flags().StringVar(&name, "name", "", "what to call the expert here")
	c.Flags().StringVar(&data, "data", "", "text to measure the expert on: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz")
	return c
}

// newExpert returns the path of an expert that is to be made under a name that is not taken.
func (a *app) newExpert(name string) (string, error) {
	if _, err := a.node().Config(); err != nil {
		return "", err
	}
	path := a.node().ExpertPath(name)
	if exists(reportPath(path)) { // which is written last
		return "", withHint(fmt.Errorf("there is an expert %q already: %s", name, path), "give another name with --name")
	}
	return path, nil
}

// anchorFor opens the anchor in dir, or without one that of the home, and says its CID.
func (a *app) anchorFor(ctx context.Context, dir string) (*model.Anchor, *tokenizer.Tokenizer, cid.Cid, error) {
	if dir == "" {
		charter, err := a.node().LoadCharter()
		if err != nil {
			return nil, nil, cid.Undef, withHint(err, "or name the folder of an anchor without a charter with --anchor")
		}
		anchor, tok, err := a.openAnchor()
		return anchor, tok, charter.Body.(*notice.Charter).Anchor, err
	}
	anchor, tok, err := model.LoadAnchor(dir)
	if err != nil {
		return nil, nil, cid.Undef, noAnchor(dir, err)
	}
	id, err := p2p.DirCID(ctx, dir)
	return anchor, tok, id, err
}

// noAnchor adds what to do to why the anchor in dir cannot be opened, if it is not there.
func noAnchor(dir string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return withHint(fmt.Errorf("there is no anchor in %s: %w", dir, err), "name its folder with --anchor, or make one with `chorus anchor train` or `chorus anchor import`")
}

// finishExpert measures the expert of that name on the text at data, if there is some, leaves the metrics beside it as
// training does, and says so. Without text the metrics say that nothing was held out to measure it on.
func (a *app) finishExpert(ctx context.Context, name, data string, anchor *model.Anchor, tok *tokenizer.Tokenizer) error {
	var m notice.Metrics
	path := a.node().ExpertPath(name)
	if data != "" {
		expert, err := model.LoadExpert(path, anchor)
		if err != nil {
			return err
		}
		c, err := train.ReadHeldout(textBytes, data)
		if err != nil {
			return withHint(err, "name other text with --data")
		}
		text := encoded{heldout: train.Encode(c.Heldout, tok.Encode, anchor.Config.EOS[0], heldoutTokens)}
		if err := text.measure(ctx, &m, anchor, expert); err != nil {
			return err
		}
	}
	if err := writeReport(path, published{Metrics: m}); err != nil {
		return err
	}
	return a.result(m, func() {
		if m.HeldoutBytes > 0 {
			a.say("%s: %.3f bits per byte of %s, the anchor %.3f", name, m.ExpertBitsPerByte, data, m.AnchorBitsPerByte)
		} else {
			a.say("%s is here, not measured: name text with --data to have its offer say how good it is", name)
		}
		a.say("Offer it with: chorus publish %s", name)
	})
}
