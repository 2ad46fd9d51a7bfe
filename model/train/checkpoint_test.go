package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/model"
	"chorus/model/safetensors"
)

// A trainer runs an anchor's or an expert's job: ctx and report are the test's.
type trainer func(ctx context.Context, checkpoint string, report func(Progress)) ([]model.Tensor, error)

func trainers(t *testing.T, steps int) map[string]trainer {
	a := trainedAnchor(t, 3)
	all := make(map[string]trainer)
	inBoth(func(name string, mixed bool) {
		all["an anchor"+name] = func(ctx context.Context, checkpoint string, report func(Progress)) ([]model.Tensor, error) {
			j := anchorJob(t, smallRecipe(steps))
			j.Checkpoint, j.Report, j.Recipe.Mixed = checkpoint, report, mixed
			return Anchor(ctx, j)
		}
		all["an expert"+name] = func(ctx context.Context, checkpoint string, report func(Progress)) ([]model.Tensor, error) {
			j := expertJob(t, a, expertRecipe(steps))
			j.Checkpoint, j.Report, j.Recipe.Mixed = checkpoint, report, mixed
			return Expert(ctx, j)
		}
	})
	all["an expert of parts, computed again, that are chosen"] = func(ctx context.Context, checkpoint string, report func(Progress)) ([]model.Tensor, error) {
		j := expertJob(t, a, expertRecipe(steps))
		j.Checkpoint, j.Report, j.Recipe.Micro, j.Memory, j.Recipe.Evaluate, j.Valid = checkpoint, report, 3, 1, 2, walkText(7, 1, 300)
		return Expert(ctx, j)
	}
	return all
}

// interrupt runs a job that ends after some steps and leaves a checkpoint.
func interrupt(t *testing.T, run trainer, checkpoint string, after int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if after == 0 {
		cancel()
	}
	last := 0
	_, err := run(ctx, checkpoint, func(p Progress) {
		if last = p.Step; last == after {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || last != after {
		t.Fatalf("interrupted after %d steps it took %d: %v", after, last, err)
	}
}

func TestAnInterruptedRunEndsInTheSameBits(t *testing.T) {
	const steps = 5
	for name, run := range trainers(t, steps) {
		t.Run(name, func(t *testing.T) {
			want, err := run(t.Context(), filepath.Join(t.TempDir(), "checkpoint"), nil)
			if err != nil {
				t.Fatal(err)
			}
			for after := range steps {
				checkpoint := filepath.Join(t.TempDir(), "checkpoint")
				interrupt(t, run, checkpoint, after)
				var taken []int
				got, err := run(t.Context(), checkpoint, func(p Progress) { taken = append(taken, p.Step) })
				if err != nil {
					t.Fatal(err)
				}
				if len(taken) != steps-after || taken[0] != after+1 {
					t.Errorf("interrupted after %d, it went on with %v", after, taken)
				}
				same(t, fmt.Sprintf("interrupted after %d", after), got, want)
			}
			// Once more at every step.
			checkpoint := filepath.Join(t.TempDir(), "checkpoint")
			for after := 1; after < steps; after++ {
				interrupt(t, run, checkpoint, after)
			}
			// The last step's checkpoint holds the result, should the process die before it is saved.
			for range 2 {
				got, err := run(t.Context(), checkpoint, nil)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "interrupted at every step", got, want)
			}
			// A cancellation that comes with the last step comes too late.
			ctx, cancel := context.WithCancel(t.Context())
			got, err := run(ctx, filepath.Join(t.TempDir(), "checkpoint"), func(p Progress) {
				if p.Step == steps {
					cancel()
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "cancelled with the last step", got, want)
		})
	}
}

func TestARunThatIsKilledGoesOnFromWhatItSavedOnItsWay(t *testing.T) {
	defer func(d time.Duration) { saveEvery = d }(saveEvery)
	saveEvery = 0
	const steps = 6
	for name, run := range trainers(t, steps) {
		checkpoint, left := filepath.Join(t.TempDir(), "checkpoint"), filepath.Join(t.TempDir(), "left")
		want, err := run(t.Context(), checkpoint, func(p Progress) {
			if p.Step != 4 {
				return
			}
			b, err := os.ReadFile(checkpoint) // what would be left if it were killed now
			if err := errors.Join(err, os.WriteFile(left, b, 0o600)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		first := 0
		got, err := run(t.Context(), left, func(p Progress) { first = cmp.Or(first, p.Step) })
		if err != nil {
			t.Fatal(err)
		}
		if first < 2 || first > 4 {
			t.Errorf("%s: killed after step 4, it went on with step %d", name, first)
		}
		same(t, name, got, want)
	}
}

func TestACheckpointOfAnotherRunIsNotResumed(t *testing.T) {
	a := trainedAnchor(t, 3)
	anchors := map[string]func(*AnchorJob){
		"seed":   func(j *AnchorJob) { j.Recipe.Seed = 9 },
		"rate":   func(j *AnchorJob) { j.Recipe.LR /= 2 },
		"steps":  func(j *AnchorJob) { j.Recipe.Steps++ },
		"text":   func(j *AnchorJob) { j.Text = &Tokens{IDs: slices.Clone(j.Text.IDs)}; j.Text.IDs[7]++ },
		"config": func(j *AnchorJob) { j.Config.RMSNormEps = 1e-5 },
		"shapes": func(j *AnchorJob) { j.Config.IntermediateSize = 24 },
		"micro":  func(j *AnchorJob) { j.Recipe.Micro = 1 },
		"choice": func(j *AnchorJob) { j.Valid = walkText(5, 3, 300) },
	}
	for name, change := range anchors {
		run := func(checkpoint string) []model.Tensor {
			j := anchorJob(t, smallRecipe(4))
			change(&j)
			j.Checkpoint = checkpoint
			out, err := Anchor(t.Context(), j)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		checkpoint := filepath.Join(t.TempDir(), "checkpoint")
		interrupt(t, func(ctx context.Context, checkpoint string, report func(Progress)) ([]model.Tensor, error) {
			j := anchorJob(t, smallRecipe(4))
			j.Checkpoint, j.Report = checkpoint, report
			return Anchor(ctx, j)
		}, checkpoint, 2)
		same(t, "an anchor with another "+name, run(checkpoint), run(filepath.Join(t.TempDir(), "none")))
	}
	experts := map[string]func(*ExpertJob){
		"anchor": func(j *ExpertJob) { j.AnchorCID = "bafyother" },
		"seed":   func(j *ExpertJob) { j.Recipe.Seed = 9 },
		"boundary between its texts": func(j *ExpertJob) {
			all := slices.Concat(j.Text.IDs, j.Public.IDs)
			j.Text, j.Public = &Tokens{IDs: all[:len(j.Text.IDs)-500]}, &Tokens{IDs: all[len(j.Text.IDs)-500:]}
		},
	}
	for name, change := range experts {
		run := func(checkpoint string) []model.Tensor {
			j := expertJob(t, a, expertRecipe(4))
			change(&j)
			j.Checkpoint = checkpoint
			out, err := Expert(t.Context(), j)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		checkpoint := filepath.Join(t.TempDir(), "checkpoint")
		interrupt(t, func(ctx context.Context, checkpoint string, report func(Progress)) ([]model.Tensor, error) {
			j := expertJob(t, a, expertRecipe(4))
			j.Checkpoint, j.Report = checkpoint, report
			return Expert(ctx, j)
		}, checkpoint, 2)
		same(t, "an expert with another "+name, run(checkpoint), run(filepath.Join(t.TempDir(), "none")))
	}
}

func TestADamagedCheckpointIsNamedAndTheWayOutToo(t *testing.T) {
	for name, run := range trainers(t, 4) {
		checkpoint := filepath.Join(t.TempDir(), "checkpoint")
		interrupt(t, run, checkpoint, 2)
		whole, err := os.ReadFile(checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		tensors := slices.Collect(f.Tensors())
		meta := f.Metadata()
		write := func(tensors []safetensors.Tensor, step string) func(string) error {
			return func(path string) error {
				return safetensors.Write(path, tensors, map[string]string{metaFingerprint: meta[metaFingerprint], metaStep: step, metaState: meta[metaState]})
			}
		}
		bytes := func(b []byte) func(string) error {
			return func(path string) error { return os.WriteFile(path, b, 0o600) }
		}
		reshaped := slices.Clone(tensors)
		reshaped[0].Shape = append([]int{1}, reshaped[0].Shape...)
		for damage, do := range map[string]func(string) error{
			"empty":             bytes(nil),
			"cut":               bytes(whole[:len(whole)-1]),
			"noise":             bytes([]byte(strings.Repeat("chorus", 100))),
			"a folder":          func(path string) error { return os.Mkdir(path, 0o700) },
			"a tensor short":    write(tensors[1:], "2"),
			"another shape":     write(reshaped, "2"),
			"no step":           write(tensors, ""),
			"a step below 0":    write(tensors, "-1"),
			"a step past all":   write(tensors, "5"),
			"a step of letters": write(tensors, "two"),
			"nothing of how it went": func(path string) error {
				return safetensors.Write(path, tensors, map[string]string{metaFingerprint: meta[metaFingerprint], metaStep: "2"})
			},
		} {
			path := filepath.Join(t.TempDir(), "checkpoint")
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			out, err := run(t.Context(), path, nil)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file to begin again") {
				t.Errorf("%s, %s: error %v", name, damage, err)
			}
			if out != nil {
				t.Errorf("%s, %s: tensors were returned with the error", name, damage)
			}
		}
	}
}

func TestACheckpointThatCannotBeWrittenIsAnError(t *testing.T) {
	for name, run := range trainers(t, 2) {
		if _, err := run(t.Context(), filepath.Join(t.TempDir(), "no folder", "checkpoint"), nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
