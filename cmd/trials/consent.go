package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"chorus/node/simulation"

	"github.com/spf13/cobra"
)

func consentTrial() *cobra.Command {
	var seeds, from uint64
	var mutations bool
	c := &cobra.Command{
		Use:   "consent",
		Short: "Simulate consortia in which everything goes wrong, and look whether consent is missed",
		Long: `Runs the worlds of the seeds from --from on in virtual time, each node with its real ledger, network engine and
steward, while nodes crash at every durable step, are restored from backups and have wrong clocks, the network parts
and members lie. It prints the seeds in which an invariant does not hold, with what broke, and how to see all that
happened. With --mutations it then deletes one safeguard after the other, and wants some of the first 200 worlds to break.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runConsent(c.Context(), from, seeds, mutations) },
	}
	c.Flags().Uint64Var(&seeds, "seeds", 200, "how many worlds")
	c.Flags().Uint64Var(&from, "from", 1, "the first seed")
	c.Flags().BoolVar(&mutations, "mutations", false, "delete the safeguards, too")
	return c
}

func runConsent(ctx context.Context, from, seeds uint64, mutations bool) error {
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := simulation.Mutation{}.Build(ctx, dir)
	if err != nil {
		return err
	}
	t := &tally{}
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
	if mutations {
		for i, m := range simulation.Mutations() {
			if err := t.mutation(ctx, m, filepath.Join(dir, fmt.Sprint(i))); err != nil {
				return err
			}
		}
	}
	return t.verdict()
}

// worldsAtOnce is how many worlds one process runs: each begins anew, so that memory is given back.
const worldsAtOnce = 10

// worlds runs the worlds from first to last in as many processes as there are processors, each of which keeps one busy.
func worlds(ctx context.Context, binary string, first, last uint64, progress func(done uint64)) (broken []error) {
	var mu sync.Mutex
	var done uint64
	said := time.Now()
	next := make(chan uint64)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for at := range next {
				end := min(at+worldsAtOnce-1, last)
				err := simulation.RunSeeds(ctx, binary, at, end)
				mu.Lock()
				if done += end - at + 1; err != nil {
					broken = append(broken, err)
				}
				if time.Since(said) > 10*time.Second {
					said = time.Now()
					progress(done)
				}
				mu.Unlock()
			}
		})
	}
	for at := first; at <= last && ctx.Err() == nil; at += worldsAtOnce {
		next <- at
	}
	close(next)
	wg.Wait()
	return broken
}

// mutation wants some world to break without a safeguard.
func (t *tally) mutation(ctx context.Context, m simulation.Mutation, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	binary, err := m.Build(ctx, dir)
	if err != nil {
		return err
	}
	for first := uint64(1); first < 200; first += worldsAtOnce {
		if err := simulation.RunSeeds(ctx, binary, first, first+worldsAtOnce-1); err != nil && ctx.Err() == nil {
			t.check(true, "without %q, some world of %d to %d breaks: %s", m.Safeguard, first, first+worldsAtOnce-1, simulation.FirstBreach(err))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	t.check(false, "without %q, some of 200 worlds breaks", m.Safeguard)
	return nil
}
