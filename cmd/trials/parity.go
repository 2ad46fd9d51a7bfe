package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"chorus/model"
	"chorus/model/eval"
	"chorus/model/tokenizer"
)

func parityTrial() *cobra.Command {
	var python string
	c := &cobra.Command{
		Use:   "parity",
		Short: "Compare the model with Hugging Face transformers' own, layer by layer, read and written",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return runParity(c.Context(), python) },
	}
	c.Flags().StringVar(&python, "python", "python3", "the Python that has the packages that model/testdata/generate.py names")
	return c
}

// A subject is a mixture of which transformers has a checkpoint, in a folder of that name.
type subject struct {
	name    string
	mixture *model.Mixture
}

// leastCheckpoints is how many forms of a checkpoint the claim is about.
const leastCheckpoints = 40

func runParity(ctx context.Context, python string) error {
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &tally{}

	read := filepath.Join(dir, "read")
	if err := transformers(ctx, python, "sweep", read); err != nil {
		return err
	}
	checkpoints, err := filepath.Glob(filepath.Join(read, "*"))
	if err != nil {
		return err
	}
	var subjects []subject
	for _, path := range checkpoints {
		k, err := model.OpenCheckpoint(path)
		if err != nil {
			return err
		}
		m, err := k.Mixture()
		if err != nil {
			return err
		}
		subjects = append(subjects, subject{filepath.Base(path), m})
	}
	fmt.Println("What transformers writes, read by chorus:")
	t.check(len(subjects) >= leastCheckpoints, "there are %d forms of a checkpoint, at least %d", len(subjects), leastCheckpoints)
	if err := t.parity(read, subjects); err != nil {
		return err
	}

	members, err := takeApart(ctx, checkpoints, subjects, filepath.Join(dir, "parts"))
	if err != nil {
		return err
	}
	subjects = append(subjects, members...)
	written := filepath.Join(dir, "written")
	if err := os.Mkdir(written, 0o700); err != nil {
		return err
	}
	args := []string{"record"}
	for i, s := range subjects {
		path := filepath.Join(written, s.name)
		if err := model.SaveCheckpoint(ctx, path, s.mixture, model.ExportOptions{ShardBytes: int64(i%2) * 30_000}); err != nil {
			return err
		}
		args = append(args, path)
	}
	if err := transformers(ctx, python, args...); err != nil {
		return err
	}
	fmt.Println("What chorus writes, read by transformers, which finds no key missing or unexpected:")
	if err := t.parity(written, subjects); err != nil {
		return err
	}
	return t.verdict()
}

// transformers runs generate.py.
func transformers(ctx context.Context, python string, args ...string) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "chorus/model").Output()
	if err != nil {
		return fmt.Errorf("looking for generate.py: %w", err)
	}
	script := filepath.Join(strings.TrimSpace(string(out)), "testdata", "generate.py")
	c := exec.CommandContext(ctx, python, append([]string{script}, args...)...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w; --python names another Python", python, script, err)
	}
	return nil
}

// takeApart gives every checkpoint a tokenizer, and takes those whose vocabulary has room for it apart into an
// anchor and experts, as members have them. It returns the mixtures of these.
func takeApart(ctx context.Context, checkpoints []string, whole []subject, dir string) ([]subject, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	tok, err := tokenizer.Train(slices.Values([]string{}), 257, []string{"<|endoftext|>"})
	if err != nil {
		return nil, err
	}
	var members []subject
	for i, s := range whole {
		if err := tok.Save(filepath.Join(checkpoints[i], model.TokenizerFile)); err != nil {
			return nil, err
		}
		slots := len(s.mixture.Slots)
		if s.mixture.Anchor.Config.VocabSize < tok.VocabSize() || slots == 1 {
			continue
		}
		m, err := reassemble(ctx, checkpoints[i], filepath.Join(dir, s.name), slots)
		if err != nil {
			return nil, err
		}
		members = append(members, subject{s.name + "-members", m})
	}
	return members, nil
}

// reassemble makes in dir an anchor and the experts of a checkpoint, as members would, and a mixture of them.
func reassemble(ctx context.Context, checkpoint, dir string, slots int) (*model.Mixture, error) {
	const cid = "trial"
	if err := model.ImportAnchor(ctx, dir, checkpoint, nil); err != nil {
		return nil, err
	}
	a, _, err := model.LoadAnchor(dir)
	if err != nil {
		return nil, err
	}
	var experts []*model.Expert
	for slot := 1; slot < slots; slot++ {
		blob := filepath.Join(dir, fmt.Sprintf("expert-%d", slot))
		if err := model.ImportExpert(ctx, blob, checkpoint, slot, a, cid, nil); err != nil {
			return nil, err
		}
		e, err := model.LoadExpert(blob, a)
		if err != nil {
			return nil, err
		}
		experts = append(experts, e)
	}
	return model.NewMixture(a, experts...), nil
}

// parity compares each subject with the recording in its folder, prints a line for each, and checks the bounds.
func (t *tally) parity(dir string, subjects []subject) error {
	var off, hidden, router, worst, rms float64 // worst and rms in bfloat16, as parts of their bounds
	var choices, tokens, withBF16 int
	var faults []string
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "  case\theads\thidden\tlayers\tvocab\tslots\trows\tlogits off\thidden\trouter\tchoices\tgreedy\tbf16 worst/bound\tbf16 rms/bound\tchoices\trows\tdiffers at")
	for _, s := range subjects {
		r, err := eval.Compare(s.mixture, filepath.Join(dir, s.name, eval.RecordingFile))
		if err != nil {
			return err
		}
		c, f := s.mixture.Anchor.Config, r.Float32
		var h float64
		for _, o := range f.Hidden {
			h = max(h, o.Worst)
		}
		p := slices.Max(append([]float64{0}, f.Router...))
		off, hidden, router = max(off, f.Logits.Worst), max(hidden, h), max(router, p)
		choices += f.Choices
		greedy := "same"
		if r.Diverges != "" {
			greedy = r.Diverges
		} else {
			tokens += r.Greedy
		}
		bf16 := "\t\t\t"
		if b := r.BFloat16; b != nil {
			withBF16++
			worst = max(worst, b.Logits.Worst/b.Bound.Worst)
			rms = max(rms, b.Logits.RMS/b.Bound.RMS)
			bf16 = fmt.Sprintf("%.4f/%.4f\t%.4f/%.4f\t%d\t%d", b.Logits.Worst, b.Bound.Worst, b.Logits.RMS, b.Bound.RMS, b.Choices, b.Rows)
		}
		fault := "nowhere"
		if err := r.Err(); err != nil {
			fault = err.Error()
			faults = append(faults, s.name+": "+fault)
		}
		fmt.Fprintf(out, "  %s\t%d/%d·%d\t%d\t%d\t%d\t%d/%d\t%d×%d\t%.1e\t%.1e\t%.1e\t%d\t%s\t%s\t%s\n",
			s.name, c.Heads, c.KVHeads, c.HeadDim(), c.HiddenSize, c.Layers, c.VocabSize, s.mixture.TopK, len(s.mixture.Slots),
			r.Sequences, r.Length, f.Logits.Worst, h, p, f.Choices, greedy, bf16, fault)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, f := range faults {
		t.check(false, "%s", f)
	}
	t.check(len(faults) == 0, "%d models compute the same, layer by layer", len(subjects))
	t.check(off <= eval.Float32Bound, "in float32 the logits are at most %.1e off (bound %g), hidden states %.1e, probabilities of the router %.1e", off, eval.Float32Bound, hidden, router)
	t.check(choices == 0 && tokens > 0, "every router chooses the same slots, and %d greedy tokens are the same", tokens)
	t.check(withBF16 > 0 && worst <= 1 && rms <= 1, "of %d models in bfloat16, the logits are within what its rounding allows: at most %.0f %% of it for single values, %.0f %% in the root mean square", withBF16, 100*worst, 100*rms)
	return nil
}
