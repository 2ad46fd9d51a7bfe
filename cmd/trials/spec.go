package main

import (
	"context"
	"fmt"
	"time"

	"chorus/ledger/spec"

	"github.com/spf13/cobra"
)

func specTrial() *cobra.Command {
	return &cobra.Command{
		Use:   "spec",
		Short: "Look at every state of the specification of feeds, leases and revocation",
		Long: `Looks at every state that three nodes come to within the bounds that ledger/spec gives, and at every invariant in
each. Then it leaves out one safeguard after the other, and wants an invariant to break. It prints the states, how many
actions deep they lie, and the time; where an invariant breaks, the shortest way there. It takes two minutes of
one core (four where that is shared), and 1.1 GB of memory.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runSpec(c.Context()) },
	}
}

func runSpec(ctx context.Context) error {
	t := &tally{}
	for _, scope := range spec.Scopes(true) {
		began := time.Now()
		r, err := spec.Explore(ctx, scope, 0, 0)
		if err != nil {
			return err
		}
		t.check(r.Broken == "" && r.Whole, "%s: every invariant in all of %d states, to %d actions deep (%.0f s)", scope.Name, r.States, r.Depth, time.Since(began).Seconds())
		if r.Broken != "" {
			fmt.Println(r)
		}
	}
	for _, g := range spec.Safeguards() {
		var breaks spec.Result
		for _, scope := range spec.Scopes(false) {
			r, err := spec.Explore(ctx, scope, g, 0)
			if err != nil {
				return err
			}
			if r.Broken != "" {
				breaks = r
				break
			}
		}
		t.check(breaks.Broken != "", "without %q, %d actions on, %s", g, breaks.Depth, breaks.Broken)
	}
	return t.verdict()
}
