package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/model"
	"chorus/model/eval"
	"chorus/model/train"
	"chorus/node"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

// valueReport is what `chorus value --json` prints.
type valueReport struct {
	Data       string  `json:"data"`
	Digest     string  `json:"digest"` // of the evaluation set; see [digestOf]
	Tokens     int     `json:"tokens"` // evaluated
	Bytes      int64   `json:"bytes"`  // of text, evaluated
	Anchor     cid.Cid `json:"anchor"`
	AnchorBits float64 `json:"anchor_bits_per_byte"`
	AllBits    float64 `json:"mixture_bits_per_byte"`

	AnchorShare float64       `json:"anchor_router_share"`
	Experts     []valueExpert `json:"experts"`
	Subsets     int           `json:"subsets"` // evaluated
	Exact       bool          `json:"banzhaf_exact"`
	*Sampling                 // nil if exact
}

// Sampling is what Banzhaf values were estimated from.
type Sampling struct {
	Pairs      int     `json:"banzhaf_pairs"`
	Seed       uint64  `json:"banzhaf_seed"`
	Confidence float64 `json:"banzhaf_confidence"`
}

type valueExpert struct {
	Name        string  `json:"name"`
	Member      string  `json:"member,omitempty"`
	Blob        cid.Cid `json:"blob"`
	RouterShare float64 `json:"router_share"`
	LeaveOneOut float64 `json:"leave_one_out"`
	Banzhaf     float64 `json:"banzhaf"`
	Low         float64 `json:"banzhaf_low"`
	High        float64 `json:"banzhaf_high"`
}

// A valueSetting is what `chorus value` was asked to do.
type valueSetting struct {
	data, digest, anchor string
	experts              []string // NAME=FILE
	tokens, pairs        int
	seed                 uint64
}

func (a *app) valueCommand() *cobra.Command {
	var s valueSetting
	c := &cobra.Command{
		Use:   "value --data PATH",
		Short: "Measure what each expert is worth on an evaluation set",
		Long: `Measures three things of each expert in use, on an evaluation set that nobody trained on:

  router share    how much of the router's weight it has: how much it is used
  leave one out   how many bits per byte the mixture loses without it: how much it is missed
  Banzhaf         how many bits per byte it saves in the mean over all sets of the others: what it
                  brings whoever else stays

They answer different questions, and chorus does not make one number of them: two experts that know the
same are both used, neither is missed, and each is worth much where the other is not. All three depend
on the evaluation set. Its digest is printed; agree on one, and name it with --digest: of a file it is what
sha256sum prints, of a folder that of (find . -type f | LC_ALL=C sort | xargs sha256sum) in it, links to files among them.

Banzhaf values of up to 12 experts are exact, from all 2^E subsets. Of more they are estimated from --pairs
random subsets and their complements, drawn from --seed, with an interval of 95 % confidence.
Interrupted, the command goes on where it was when it is run again.`,
		Example: `  chorus value --data ./evaluation
  chorus value --data agreed.jsonl.gz --digest sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  chorus value --data ./evaluation --anchor ./anchor --expert law=law.safetensors --expert press=press.safetensors`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if s.data == "" {
				return usageError{errors.New("name the evaluation set with --data PATH")}
			}
			if !exists(s.data) {
				return fmt.Errorf("--data %s: there is no such file or folder", s.data)
			}
			if s.tokens <= windowTokens {
				return usageError{fmt.Errorf("--tokens %d, expected more than %d", s.tokens, windowTokens)}
			}
			r, err := a.value(c.Context(), s)
			if err != nil {
				return err
			}
			return a.result(r, func() { a.showValue(r) })
		},
	}
	c.Flags().StringVar(&s.data, "data", "", "the evaluation set: a file, or a folder of .txt, .md, .jsonl, .jsonl.gz")
	c.Flags().StringVar(&s.digest, "digest", "", "refuse an evaluation set that does not have this digest")
	c.Flags().IntVar(&s.tokens, "tokens", heldoutTokens, "how much of it to evaluate: about so many tokens, sampled evenly")
	c.Flags().StringVar(&s.anchor, "anchor", "", "the anchor's folder, for --expert (default: the anchor of this data folder's charter)")
	c.Flags().StringArrayVar(&s.experts, "expert", nil, "NAME=FILE: value these experts together instead of those in use (repeatable)")
	c.Flags().IntVar(&s.pairs, "pairs", 256, "of more than 12 experts, how many random subsets to draw, each with its complement")
	c.Flags().Uint64Var(&s.seed, "seed", 1, "what they are drawn from")
	return c
}

func (a *app) value(ctx context.Context, s valueSetting) (*valueReport, error) {
	digest, err := digestOf(s.data)
	if err != nil {
		return nil, err
	}
	if want := strings.ToLower(strings.TrimPrefix(s.digest, digestPrefix)); want != "" && digestPrefix+want != digest {
		return nil, withHint(fmt.Errorf("%s has the digest %s, expected %s", s.data, digest, s.digest), "evaluate the set that was agreed on, or agree on this one: `chorus value --help` says what the digest is of")
	}
	anchor, tok, id, err := a.anchorFor(ctx, s.anchor)
	if err != nil {
		return nil, err
	}
	r := &valueReport{Data: s.data, Digest: digest, Anchor: id}
	experts, held, err := a.valued(ctx, s, anchor, r)
	if err != nil {
		return nil, err
	}
	corpus, err := train.ReadHeldout(textBytes, s.data)
	if err != nil {
		return nil, withHint(err, "name other text with --data")
	}
	text := train.Encode(corpus.Heldout, tok.Encode, anchor.Config.EOS[0], s.tokens)
	r.Tokens, r.Bytes = len(text.IDs), text.Bytes

	notes, err := openJournal(filepath.Join(a.node().Training(), "value.journal"), r) // before there are any results in r
	if err != nil {
		return nil, err
	}
	var noting error
	var t *task
	job := eval.ValueJob{
		Anchor: anchor, Experts: experts, IDs: text.IDs, Bytes: text.Bytes, Length: windowTokens, Pairs: s.pairs, Seed: s.seed,
		Known: func(subset string) (bits float64, ok bool) { return bits, notes.get(subset, &bits) },
		Measured: func(subset string, bits float64, done, total int) {
			if t == nil {
				t = a.task("valuing", int64(total))
			}
			noting = errors.Join(noting, notes.put(subset, bits))
			t.set(int64(done), "subset %d of %d", done, total)
		},
	}
	var v *eval.Valuation
	err = a.whileInUse(ctx, held, func(ctx context.Context) (err error) {
		v, err = eval.Value(ctx, job)
		return err
	})
	if t != nil {
		t.end()
	}
	if err := notes.end(errors.Join(err, noting)); err != nil {
		return nil, err
	}
	r.AnchorBits, r.AllBits, r.AnchorShare, r.Subsets, r.Exact = v.Anchor, v.Mixture, v.AnchorShare, v.Subsets, !v.Sampled
	if v.Sampled {
		r.Sampling = &Sampling{s.pairs, s.seed, 0.95}
	}
	for i, w := range v.Experts {
		e := &r.Experts[i]
		e.RouterShare, e.LeaveOneOut, e.Banzhaf, e.Low, e.High = w.RouterShare, w.LeaveOneOut, w.Banzhaf.Value, w.Banzhaf.Low, w.Banzhaf.High
	}
	return r, nil
}

// valued opens the experts to value and names them in r: those in use, which it returns too, or those that the command
// line names.
func (a *app) valued(ctx context.Context, s valueSetting, anchor *model.Anchor, r *valueReport) (experts []*model.Expert, held []node.Expert, err error) {
	open := func(e valueExpert, path string) error {
		expert, err := openExpert(path, anchor, r.Anchor)
		if err != nil {
			return err
		}
		r.Experts, experts = append(r.Experts, e), append(experts, expert)
		return nil
	}
	if len(s.experts) > 0 {
		files, err := parseNamed("--expert", s.experts)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range files {
			if len(f.paths) > 1 {
				return nil, nil, usageError{fmt.Errorf("--expert: %s names %s: give each a name of its own", f.name, strings.Join(f.paths, " and "))}
			}
			id, err := blobOf(f.paths[0])
			if err != nil {
				return nil, nil, err
			}
			if err := open(valueExpert{Name: f.name, Blob: id}, f.paths[0]); err != nil {
				return nil, nil, err
			}
		}
		return experts, nil, nil
	}
	if held, err = a.inUse(ctx, "or value files, named with --expert NAME=FILE"); err != nil {
		return nil, nil, err
	}
	for _, e := range held {
		if err := open(valueExpert{Name: e.Domain, Member: e.Member, Blob: e.Blob}, e.Path); err != nil {
			return nil, nil, err
		}
	}
	if len(experts) == 0 {
		return nil, nil, withHint(errors.New("no expert is in use here"), "`chorus experts` says where each stands", "or name files with --expert NAME=FILE")
	}
	return experts, held, nil
}

// openExpert opens an expert's blob and refuses one that was trained against another anchor.
func openExpert(path string, anchor *model.Anchor, id cid.Cid) (*model.Expert, error) {
	of, err := model.AnchorOf(path)
	if err != nil {
		return nil, err
	}
	if of != id.String() {
		return nil, withHint(fmt.Errorf("%s was trained against the anchor %s, expected %s", path, of, id), "name the folder of the anchor that it was trained against with --anchor")
	}
	return model.LoadExpert(path, anchor)
}

// blobOf returns the CID that a file has as a blob.
func blobOf(path string) (cid.Cid, error) {
	f, err := os.Open(path)
	if err != nil {
		return cid.Undef, err
	}
	defer f.Close()
	id, _, err := p2p.BlobCID(f)
	return id, err
}

const digestPrefix = "sha256:"

// digestOf returns the SHA-256 of a file, or of a folder: of the lines that sha256sum prints for all files in it, by their paths from there.
func digestOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		sum, err := sumOf(path)
		return digestPrefix + sum, err
	}
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	var names []string
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err == nil && info.Mode().IsRegular() {
			if p, err = filepath.Rel(root, p); err == nil {
				names = append(names, "./"+filepath.ToSlash(p))
			}
		}
		return err
	})
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	all := sha256.New()
	for _, name := range names {
		sum, err := sumOf(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(all, "%s  %s\n", sum, name)
	}
	return digestPrefix + hex.EncodeToString(all.Sum(nil)), nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (a *app) showValue(r *valueReport) {
	a.say("evaluation set %s, %s", r.Data, r.Digest)
	a.say("%s tokens of it, %s of text: the anchor needs %.3f bits per byte, with all experts %.3f\n", thousands(int64(r.Tokens)), megabytes(r.Bytes), r.AnchorBits, r.AllBits)
	rows := [][]string{{"expert", "member", "router share", "leave one out", "Banzhaf"}}
	for _, e := range r.Experts {
		banzhaf := fmt.Sprintf("%+.4f", e.Banzhaf)
		if !r.Exact {
			banzhaf += fmt.Sprintf("  (%+.4f to %+.4f)", e.Low, e.High)
		}
		rows = append(rows, []string{e.Name, e.Member, fmt.Sprintf("%.1f %%", 100*e.RouterShare), fmt.Sprintf("%+.4f", e.LeaveOneOut), banzhaf})
	}
	a.table(append(rows, []string{"the anchor", "", fmt.Sprintf("%.1f %%", 100*r.AnchorShare)}))
	a.say("\nLeave one out and Banzhaf are in bits per byte saved. They answer different questions: see chorus value --help.")
	if r.Exact {
		a.say("Banzhaf values are exact, from all %s subsets.", thousands(int64(r.Subsets)))
	} else {
		a.say("Banzhaf values are estimates with 95 %% intervals, from %d pairs of subsets drawn from seed %d.", r.Pairs, r.Seed)
	}
}
