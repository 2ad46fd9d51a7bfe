package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"chorus/node/simulation"

	"github.com/spf13/cobra"
)

func consentTrial() *cobra.Command {
	var seeds, from uint64
	var mutations bool
	var mutation string
	c := &cobra.Command{
		Use:   "consent",
		Short: "Simulate consortia in which everything goes wrong, and look whether consent is missed",
		Long: `Runs the worlds of the seeds from --from on in virtual time, each node with its real ledger, network engine and
steward, while nodes crash at every durable step, are restored from backups and have wrong clocks, the network parts
and members lie. It prints the seeds in which an invariant does not hold, with what broke, and how to see all that
happened. With --mutations it then deletes one safeguard after the other, and wants an invariant not to hold in some of the
first 200 worlds; with --mutation alone those that have a text in their names, and runs no other worlds.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if mutation != "" {
				seeds, mutations = 0, true
			}
			return runConsent(c.Context(), from, seeds, mutations, mutation)
		},
	}
	c.Flags().Uint64Var(&seeds, "seeds", 200, "how many worlds")
	c.Flags().Uint64Var(&from, "from", 1, "the first seed")
	c.Flags().BoolVar(&mutations, "mutations", false, "delete the safeguards, too")
	c.Flags().StringVar(&mutation, "mutation", "", "delete the safeguards that have this in their names, and do nothing else")
	return c
}

// runConsent runs worlds and then deletes the safeguards whose names contain only.
func runConsent(ctx context.Context, from, seeds uint64, mutations bool, only string) error {
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &tally{}
	if seeds > 0 {
		binary, err := simulation.Mutation{}.Build(ctx, dir)
		if err != nil {
			return err
		}
		began := time.Now()
		broken := worlds(ctx, binary, from, from+seeds-1, func(done uint64) {
			fmt.Fprintf(os.Stderr, "%d of %d worlds (%.0f s)\n", done, seeds, time.Since(began).Seconds())
		})
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, err := range broken {
			fmt.Println(err)
		}
		t.check(len(broken) == 0, "every invariant in each of the worlds %d to %d (%.0f s)", from, from+seeds-1, time.Since(began).Seconds())
	}
	if mutations {
		found := false
		for i, m := range simulation.Mutations() {
			if !strings.Contains(m.Safeguard, only) {
				continue
			}
			found = true
			if err := t.mutation(ctx, m, filepath.Join(dir, fmt.Sprint(i))); err != nil {
				return err
			}
		}
		if !found {
			return fmt.Errorf("no safeguard has %q in its name", only)
		}
	}
	return t.verdict()
}

// worlds runs the worlds from first to last.
func worlds(ctx context.Context, binary string, first, last uint64, progress func(done uint64)) (broken []error) {
	var done uint64
	said := time.Now()
	simulation.Each(ctx, binary, first, last, true, func(from, to uint64, err error) (more bool) {
		if done += to - from + 1; err != nil {
			broken = append(broken, err)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			progress(done)
		}
		return true
	})
	return broken
}

// mutation wants some world to break without a safeguard.
func (t *tally) mutation(ctx context.Context, m simulation.Mutation, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	b, err := m.Break(ctx, dir, simulation.MutationSeeds)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	what := fmt.Sprintf("without %q, one of the first %d worlds breaks", m.Safeguard, simulation.MutationSeeds)
	switch {
	case err != nil:
		t.check(false, "%s: %v", what, err)
	case b == nil:
		t.check(false, "%s", what)
	default:
		t.check(true, "%s: %d: %s", what, b.Seed, b.What)
	}
	return nil
}
