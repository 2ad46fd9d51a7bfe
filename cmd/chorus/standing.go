package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/node"
)

// askEvery is how often a command that computes with other members' experts asks whether they still may be used.
const askEvery = 2 * time.Second

// standing returns the experts that stand under a lease and are here.
func standing(s node.Status) (held []node.Expert) {
	for _, e := range s.Experts {
		if e.State == ledger.Active && e.Held && e.Refusal == "" {
			held = append(held, e)
		}
	}
	return held
}

// A leftError ends a command that computes with an expert when its owner leaves.
type leftError struct{ expert node.Expert }

func (e *leftError) Error() string {
	return fmt.Sprintf("%s of %s may not be used any more: %s", e.expert.Domain, e.expert.Member, e.expert.Words())
}

// whileTheyStand calls do, and ends its context with a [*leftError], which it returns, when one of the experts may not be used
// any more: by the word of the home's running node, or when its lease runs out.
func (a *app) whileTheyStand(ctx context.Context, experts []node.Expert, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		ask := time.NewTicker(askEvery)
		defer ask.Stop()
		for {
			if left := a.firstLeft(ctx, experts); left != nil {
				cancel(left)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-ask.C:
			}
		}
	})
	err := do(ctx)
	cancel(nil)
	wg.Wait()
	if left := (*leftError)(nil); errors.As(context.Cause(ctx), &left) {
		return left
	}
	return err
}

// firstLeft returns the first of the experts that may not be used any more, or nil. A node that does not run learns
// nothing, and its ledger is left to one that starts.
func (a *app) firstLeft(ctx context.Context, experts []node.Expert) *leftError {
	if client, err := node.Dial(ctx, a.node()); err == nil {
		if s, err := client.Status(ctx); err == nil {
			for _, e := range experts {
				i := slices.IndexFunc(s.Experts, func(x node.Expert) bool { return x.Offer == e.Offer })
				if i >= 0 && s.Experts[i].State != ledger.Active {
					return &leftError{s.Experts[i]}
				}
			}
			return nil
		}
	}
	for _, e := range experts {
		if !time.Now().Before(e.Until) {
			e.State = ledger.Lapsed
			return &leftError{e}
		}
	}
	return nil
}
