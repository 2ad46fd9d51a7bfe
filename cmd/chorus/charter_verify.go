package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chorus/ledger/notice"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

func (a *app) charterVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE...",
		Short: "Verify charter files, offline",
		Long: `Verifies that files are the versions of one charter, from the first on, each signed by a quorum of the stewards of
the version that it follows and by one of its own, and says who signed. One that lacks signatures is a proposal. If two versions follow the same
one, the charter is forked: that is said, and the exit code is 1. It needs no data folder and no network.
That the first is the right one, its identity says: compare it with what a steward tells you.`,
		Example: `  chorus charter show --save versions
  chorus charter verify versions/*.json`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, paths []string) error {
			files, err := readChain(paths)
			if err != nil {
				return err
			}
			all, forked, err := verify(files)
			if err != nil {
				return err
			}
			return errors.Join(a.result(all, func() { a.sayVerified(all) }), forked)
		},
	}
}

// A verified is what a file is found to be.
type verified struct {
	node.Version
	Proposal bool `json:"proposal,omitempty"` // it lacks signatures, and holds nowhere
}

// verify judges charters, sorted by version, each by the one that it follows. forked says where two follow the same one.
func verify(files []*notice.Notice) (all []verified, forked, err error) {
	known := make(map[cid.Cid]*notice.Notice)
	proposals := make(map[cid.Cid]bool)
	after := make(map[cid.Cid]cid.Cid) // the first version that was found to follow one
	for _, n := range files {
		body := n.Body.(*notice.Charter)
		prev := known[body.Prev]
		switch {
		case body.Version > 1 && prev == nil:
			return nil, nil, fmt.Errorf("version %d, %s, follows %s, which is not among the files", body.Version, n.CID, body.Prev)
		case proposals[body.Prev]:
			return nil, nil, fmt.Errorf("version %d, %s, follows %s, which lacks signatures", body.Version, n.CID, body.Prev)
		case body.Version == 1 && len(known) > 0:
			return nil, nil, fmt.Errorf("%s and %s are the first versions of two charters", files[0].CID, n.CID)
		}
		v := verified{Version: node.Describe(n, prev)}
		if err := notice.VerifyCharter(n, prev); errors.Is(err, notice.ErrSignature) && prev != nil {
			v.Proposal = true
		} else if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", n.CID, err)
		} else if first, taken := after[body.Prev]; taken {
			forked = errors.Join(forked, fmt.Errorf("%s and %s both follow version %d: %w", first, n.CID, body.Version-1, node.ErrForked))
		} else if prev != nil {
			after[body.Prev] = n.CID
		}
		known[n.CID], proposals[n.CID] = n, v.Proposal
		all = append(all, v)
	}
	return all, forked, nil
}

func (a *app) sayVerified(all []verified) {
	for _, v := range all {
		what := fmt.Sprintf("version %d of %s", v.Charter.Version, v.Charter.Name)
		if v.Proposal {
			what = "proposal for " + what
		}
		a.say("%s, %s: %s", what, v.CID, cmp.Or(strings.Join(v.Changes, ", "), "founded"))
		if v.Charter.Version > 1 {
			a.say("  follows %s", v.Charter.Prev)
		}
		for _, vote := range v.Votes {
			a.say("  signed by %s: %d of the %d stewards of version %d, where %d are a quorum", list(vote.Signed), len(vote.Signed), len(vote.Signed)+len(vote.Yet), vote.Version, vote.Quorum)
		}
		if v.Proposal {
			a.say("  It holds nowhere: %s.", v.Lacking())
		}
	}
}

// readChain reads charter files and sorts them by version. Of one that is there twice it adds up the signatures.
func readChain(paths []string) (chain []*notice.Notice, err error) {
	for _, path := range paths {
		n, err := node.ReadNotice(path)
		if err != nil {
			return nil, err
		}
		if n.Kind != notice.KindCharter {
			return nil, fmt.Errorf("%s: holds a %s, expected a charter", path, n.Kind)
		}
		if i := slices.IndexFunc(chain, func(c *notice.Notice) bool { return c.CID == n.CID }); i >= 0 {
			if chain[i], err = notice.Merge(chain[i], n, func(notice.PublicKey) bool { return true }); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		chain = append(chain, n)
	}
	slices.SortStableFunc(chain, func(a, b *notice.Notice) int {
		return cmp.Compare(a.Body.(*notice.Charter).Version, b.Body.(*notice.Charter).Version)
	})
	return chain, nil
}
