package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chorus/ledger/notice"
	"chorus/node"

	"github.com/spf13/cobra"
)

// caution adds the flag of commands that sign charters, and returns what they pass on.
func caution(c *cobra.Command) func() node.Caution {
	alone := c.Flags().Bool("alone", false, "sign although no other member can be reached, who might know of a version that this node does not: two that follow the same one fork the charter for good")
	replace := c.Flags().Bool("replace", false, "sign although this steward has signed another version that is not signed by all yet: see to it that nobody signs that one any more, or the charter is forked for good")
	return func() node.Caution {
		return node.Caution{WithinSeconds: reachWithin.Seconds(), Alone: *alone, Replace: *replace}
	}
}

func (a *app) charterProposal() *cobra.Command {
	var change node.Change
	var cards, revokers []string
	var limits string
	c := &cobra.Command{
		Use:   "propose",
		Short: "Sign a proposal for the charter's next version, as a steward",
		Long: `Draws up the next version of the charter, signs it and sends it to the other members. It holds once a quorum of
the stewards of the present version, and one of its own, have signed it with "chorus charter sign": at once where
one signature is enough. The anchor and the name stay. Keys that members' recovery keys have replaced since are put on it; with no flags at
all, that is what it does.

` + limitsHelp,
		Example: `  chorus charter propose --add clinic.json
  chorus charter propose --remove north --quorum 2 --steward clinic
  chorus charter propose --leak-limits limits.json
  chorus charter propose --revoker clinic=z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if change.Add, err = readCards(cards); err != nil {
				return err
			}
			for _, text := range revokers {
				member, key, _ := strings.Cut(text, "=")
				k, err := notice.ParsePublicKey(key)
				if err != nil {
					return usageError{fmt.Errorf("--revoker %q: want MEMBER=KEY: %w", text, err)}
				}
				change.Revokers = append(change.Revokers, node.Revoker{Member: member, Key: k})
			}
			if limits != "" {
				leaks, err := readLimits(limits)
				if err != nil {
					return err
				}
				change.Terms.Leak = &leaks
			}
			return a.control(c.Context(), func(k node.Control) error {
				return a.propose(c.Context(), k, change)
			})
		},
	}
	f := c.Flags()
	f.StringSliceVar(&cards, "add", nil, "file with the card of an organisation to admit (repeatable)")
	f.StringSliceVar(&change.Remove, "remove", nil, "member to remove (repeatable)")
	f.StringSliceVar(&change.Steward, "steward", nil, "member to make a steward (repeatable)")
	f.StringSliceVar(&change.NoSteward, "no-steward", nil, "steward to make a plain member (repeatable)")
	f.StringSliceVar(&revokers, "revoker", nil, "MEMBER=KEY: a key that can revoke for a member (repeatable)")
	f.IntVar(&change.Terms.Quorum, "quorum", 0, "how many stewards must sign a version")
	f.Int64Var(&change.Terms.LeaseSeconds, "lease-seconds", 0, "how long a lease lasts")
	f.Int64Var(&change.Terms.LeaseCeilingSeconds, "lease-ceiling-seconds", 0, "how long a lease may last")
	f.Int64Var(&change.Terms.MaxBlobBytes, "max-blob-bytes", 0, "size of the largest expert")
	f.IntVar(&change.Terms.OffersPerDay, "offers-per-day", 0, "how many experts a member may offer a day")
	f.StringVar(&limits, "leak-limits", "", "file with the limits of audits")
	with := caution(c)
	c.PreRun = func(*cobra.Command, []string) { change.Caution = with() }
	return c
}

// propose has a node sign a change, and says what became of it.
func (a *app) propose(ctx context.Context, k node.Control, change node.Change) error {
	var s node.Signed
	err := a.unlocked(ctx, k, func() (err error) {
		s, err = k.Propose(ctx, change)
		return err
	})
	if err != nil {
		return cautioned(err)
	}
	return a.result(s, func() { a.saySigned(s) })
}

// saySigned says what became of a version that was signed.
func (a *app) saySigned(s node.Signed) {
	a.say("version %d: %s", s.Charter.Version, strings.Join(s.Changes, ", "))
	if s.Holds {
		a.say("It is the charter now: every node that this one reaches takes it into use at once.")
		return
	}
	a.say("It is signed as %s and sent on. %s.", short(s.CID), s.Lacking())
	a.say("They see it in `chorus charter show` and sign it with `chorus charter sign %s`.", s.CID)
}

func (a *app) charterSign() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "sign [PROPOSAL | ORGANISATION]",
		Short: "Sign a proposal, or admit an organisation that asks, as a steward",
		Long: `Shows what a proposal changes, asks, and adds this steward's signature. PROPOSAL is the identity of one, or how that
ends; without it, the one that waits for this steward. ORGANISATION is one that asks to be admitted, by a code of this node: its
fingerprint must be the one that it reads to you.`,
		Example: `  chorus charter sign
  chorus charter sign clinic
  chorus charter sign bagaaiera… --yes`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	with := caution(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		return a.control(c.Context(), func(k node.Control) error {
			charters, err := k.Charters(c.Context())
			if err != nil {
				return err
			}
			proposal, request, err := pick(charters, strings.Join(given, ""))
			if err != nil {
				return err
			}
			if request != nil {
				a.sayRequest(*request)
				if err := a.confirm(c, yes, fmt.Sprintf("Does %s read the same? Admit it?", request.Name)); err != nil {
					return err
				}
				return a.admit(c.Context(), k, *request, with())
			}
			a.sayProposal(*proposal, charters)
			if len(others(*proposal, charters)) > 0 && !with().Replace {
				return cautioned(node.ErrPending)
			}
			if err := a.confirm(c, yes, "Sign it?"); err != nil {
				return err
			}
			var s node.Signed
			err = a.unlocked(c.Context(), k, func() (err error) {
				s, err = k.Sign(c.Context(), proposal.CID, with())
				return err
			})
			if err != nil {
				return cautioned(err)
			}
			return a.result(s, func() { a.saySigned(s) })
		})
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

var errNotSigned = errors.New("nothing was signed")

// cautioned adds what a steward can do who reaches nobody, or has signed another version before.
func cautioned(err error) error {
	if errors.Is(err, node.ErrPending) {
		return withHint(err, "have those who could sign the other one not do so, and then sign with --replace", "`chorus charter show` shows it; `chorus charter sign` is for whoever is to sign it after all")
	}
	if errors.Is(err, node.ErrNotReconciled) {
		return withHint(err, "if the others are gone, or none has ever run, sign with --alone")
	}
	return err
}

// pick finds what a steward wants to sign: what is named, or else the one thing that waits for it.
func pick(c node.Charters, name string) (*node.Version, *node.Invitation, error) {
	var proposals []*node.Version
	var requests []*node.Invitation
	var names []string
	for i, p := range c.Proposals {
		if name == "" && slices.ContainsFunc(p.Votes, func(v node.Vote) bool { return slices.Contains(v.Yet, c.Member) }) || name != "" && strings.HasSuffix(p.CID.String(), strings.TrimPrefix(name, "…")) {
			proposals, names = append(proposals, &c.Proposals[i]), append(names, p.CID.String())
		}
	}
	for i, r := range c.Requests {
		if name == "" || name == r.Name {
			requests, names = append(requests, &c.Requests[i]), append(names, r.Name)
		}
	}
	switch {
	case len(names) == 0 && name == "":
		return nil, nil, errors.New("nothing waits for a signature of this steward's")
	case len(names) == 0:
		return nil, nil, withHint(fmt.Errorf("no proposal and no request is called %q", name), "`chorus charter show` lists them")
	case len(names) > 1:
		return nil, nil, withHint(errors.New("more than one waits for a signature"), "name one: "+strings.Join(names, ", "))
	case len(requests) == 1:
		return nil, requests[0], nil
	}
	return proposals[0], nil, nil
}

// admit proposes to put the organisation that asks on the charter.
func (a *app) admit(ctx context.Context, k node.Control, r node.Invitation, with node.Caution) error {
	return a.propose(ctx, k, node.Change{Add: []notice.Member{*r.Card}, Caution: with})
}

// sayRequest shows who asks to be admitted.
func (a *app) sayRequest(r node.Invitation) {
	a.say("%s asks to be admitted. It must read this fingerprint to you, over a line that you trust:\n", r.Name)
	a.say("    %s\n", r.Fingerprint)
}

// sayProposal shows a proposal as a summary.
func (a *app) sayProposal(p node.Version, c node.Charters) {
	a.say("proposal for version %d, %s", p.Charter.Version, p.CID)
	for _, change := range p.Changes {
		a.say("  %s", change)
	}
	for _, v := range p.Votes {
		a.say("  signed by %s of the stewards of version %d, and needs %d", list(v.Signed), v.Version, v.Quorum)
	}
	for _, other := range others(p, c) {
		a.say("  This steward has signed %s too (%s). If both came to hold, the charter would be forked for good.", short(other.CID), strings.Join(other.Changes, ", "))
	}
}

// others are the proposals beside p that this steward has signed.
func others(p node.Version, c node.Charters) (signed []node.Version) {
	for _, other := range c.Proposals {
		if other.CID != p.CID && slices.ContainsFunc(other.Votes, func(v node.Vote) bool { return slices.Contains(v.Signed, c.Member) }) {
			signed = append(signed, other)
		}
	}
	return signed
}

// confirm returns nil if the answer to a question is yes. It asks unless that is known.
func (a *app) confirm(c *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	in := bufio.NewReader(c.InOrStdin())
	line, err := typed(c.Context(), func() (string, error) { return in.ReadString('\n') })
	if err != nil { // nobody has ended the line
		fmt.Fprintln(a.err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return cmp.Or(c.Context().Err(), errNotSigned)
}

// charters is what is known of the charter, from the running node or from its ledger.
func (a *app) charters(ctx context.Context) (c node.Charters, err error) {
	client, err := node.Dial(ctx, a.node())
	if err == nil {
		return client.Charters(ctx)
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return c, err
	}
	config, err := a.node().Config()
	if err != nil {
		return c, err
	}
	l, err := a.node().OpenLedger()
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return node.ReadCharters(a.node(), config.Member, l)
}

func (a *app) charterShow() *cobra.Command {
	var save string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the charter, what led to it and what is proposed",
		Example: `  chorus charter show
  chorus charter show --save versions    write each version to a file, for "chorus charter verify"
  chorus charter show --json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := a.charters(c.Context())
			if err != nil {
				return err
			}
			if save != "" {
				if err := saveVersions(save, all); err != nil {
					return err
				}
			}
			return a.result(all, func() { a.showCharters(all) })
		},
	}
	c.Flags().StringVar(&save, "save", "", "folder to write each version and each proposal to")
	return c
}

// inForce is the version that holds.
func inForce(c node.Charters) *notice.Charter {
	i := slices.IndexFunc(c.Versions, func(v node.Version) bool { return v.CID == c.Current })
	return c.Versions[i].Charter
}

func saveVersions(dir string, c node.Charters) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	i := slices.IndexFunc(c.Versions, func(v node.Version) bool { return v.CID == c.Current })
	for k, v := range slices.Concat(c.Versions, c.Proposals) {
		name := fmt.Sprintf("charter-%d.json", v.Charter.Version)
		if k > i { // there may be others of its number
			name = fmt.Sprintf("charter-%d-%s.json", v.Charter.Version, strings.TrimPrefix(short(v.CID), "…"))
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(v.Envelope), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showCharters(all node.Charters) {
	c := inForce(all)
	a.say("%s, version %d, charter %s", c.Name, c.Version, all.Current)
	a.say("anchor %s", c.Anchor)
	seconds := func(n int64) time.Duration { return time.Duration(n) * time.Second }
	a.say("leases of %v, at most %v; experts of at most %s, %d offers a day; quorum %d of %d stewards", seconds(c.LeaseSeconds), seconds(c.LeaseCeilingSeconds), megabytes(c.MaxBlobBytes), c.OffersPerDay, c.Quorum, len(c.Stewards))
	a.say("audits warn and block above: %s", node.LimitWords(c.Leak))
	rows := [][]string{{"member", "", "publishing key", "node key", "recovery key", "revokers"}}
	for _, m := range c.Members {
		role := ""
		if slices.Contains(c.Stewards, m.Name) {
			role = "steward"
		}
		recovery, revokers := "none", []string{}
		if !m.Recovery.IsZero() {
			recovery = short(m.Recovery)
		}
		for _, k := range m.Revokers {
			revokers = append(revokers, short(k))
		}
		rows = append(rows, []string{m.Name, role, short(m.Publishing), short(m.Node), recovery, cmp.Or(strings.Join(revokers, ", "), "none")})
	}
	a.table(rows)
	for _, r := range all.Replaced {
		a.say("  %s", r.Words())
	}
	a.say("\nversions")
	for _, v := range all.Versions {
		what := strings.Join(v.Changes, ", ")
		if v.Charter.Version > c.Version {
			what = "holds nowhere, since another follows the same one: " + what
		}
		var signed []string
		for _, vote := range v.Votes {
			signed = append(signed, vote.Signed...)
		}
		slices.Sort(signed)
		a.say("  %d %s  %s; signed by %s", v.Charter.Version, short(v.CID), cmp.Or(what, "founded"), list(slices.Compact(signed)))
	}
	if all.Forked {
		a.say("\nThe charter is forked: its stewards have signed two versions that follow the same one. Version %d stays, nothing can be\nchanged any more, and an expert is used only if its member is on every branch.", c.Version)
	}
	for _, p := range all.Proposals {
		a.say("")
		a.sayProposal(p, all)
		a.say("  %s", p.Lacking())
	}
	for _, r := range all.Requests {
		a.say("\n%s asks to be admitted, with the fingerprint %s: %s.", r.Name, r.Fingerprint, r.Detail)
		a.say("  Compare it, then `chorus charter sign %s`, or decline with `chorus invite --cancel %s`.", r.Name, r.Name)
	}
	for _, l := range all.Leaving {
		a.say("\n%s withdrew all that it had on offer on %s%s.", l.Member, l.Time.Local().Format(time.DateTime), because(l.Reason))
		a.say("  If it leaves, a steward takes it off the charter: `chorus charter propose --remove %s`.", l.Member)
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return fmt.Sprintf(": %q", reason)
}
