package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chorus/ledger"
	"chorus/node"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// errNodeGone ends a command that computes with experts on offer when the node ends.
var errNodeGone = fmt.Errorf("%w any more, and without it nobody here hears of a revocation", node.ErrNotRunning)

// inUse returns the experts that the home's running node has in its mixture. Without a node that runs and is in step with the others nobody
// here knows whose experts may be used, so that it is an error, with more hints if there are.
func (a *app) inUse(ctx context.Context, hints ...string) (held []node.Expert, err error) {
	client, err := node.Dial(ctx, a.node())
	if errors.Is(err, node.ErrNotRunning) {
		return nil, withHint(fmt.Errorf("%w, and only one that runs knows whose experts may be used", err), hints...)
	} else if err != nil {
		return nil, err
	}
	s, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	if s.Why != "" && s.Why != steward.NoneStands {
		return nil, withHint(fmt.Errorf("no expert may be used now: %s", s.Why), slices.Concat([]string{"`chorus doctor` says what to do"}, hints)...)
	}
	return slices.DeleteFunc(s.Experts, func(e node.Expert) bool { return !e.InUse }), nil
}

// A leftError ends a command that computes with an expert when the node does not use it any more.
type leftError struct {
	expert node.Expert
	why    string
}

func (e *leftError) Error() string {
	return fmt.Sprintf("%s of %s may not be used any more: %s", e.expert.Domain, e.expert.Member, e.why)
}

// whileInUse calls do, which computes with experts that the home's node uses, and ends its context as soon as the node does not use one
// of them any more, or ends. It returns nil only if the node used all of them until after do had returned.
func (a *app) whileInUse(ctx context.Context, experts []node.Expert, do func(context.Context) error) error {
	if len(experts) == 0 {
		return do(ctx)
	}
	client, err := node.Dial(ctx, a.node())
	if errors.Is(err, node.ErrNotRunning) {
		return errNodeGone
	} else if err != nil {
		return err
	}
	var offers []cid.Cid
	for _, e := range experts {
		offers = append(offers, e.Offer)
	}
	working, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		s, err := client.AwaitEnd(working, offers)
		end(ended(s, err, experts))
	})
	err = do(working)
	end(nil)
	wg.Wait()
	if cause := context.Cause(working); !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err != nil {
		return err
	}
	s, err := client.Status(ctx) // its word may have been on the way
	if err == nil && !slices.ContainsFunc(offers, func(o cid.Cid) bool { return left(s, o) != nil }) {
		return nil
	}
	return ended(s, err, experts)
}

// ended says why experts are not in use any more, by what a node answered: nil if the command itself has ended.
func ended(s node.Status, err error, experts []node.Expert) error {
	if errors.Is(err, context.Canceled) {
		return err
	} else if err != nil {
		return errNodeGone
	}
	for _, e := range experts {
		if x := left(s, e.Offer); x != nil {
			return x
		}
	}
	return &leftError{experts[0], "the node had stopped using it, or another that was opened with it, for a moment"}
}

// left returns that an offer's expert is not in use by a node, or nil if it is.
func left(s node.Status, offer cid.Cid) *leftError {
	i := slices.IndexFunc(s.Experts, func(e node.Expert) bool { return e.Offer == offer })
	switch {
	case i < 0:
		return &leftError{node.Expert{Offer: offer}, "the node does not know its offer"}
	case s.Experts[i].InUse:
		return nil
	}
	e := s.Experts[i]
	why := e.Words()
	if e.State == ledger.Active && e.Refusal == "" {
		why = s.Why
	}
	return &leftError{e, why}
}
