package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"chorus/durable"
	"chorus/ledger"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

// reachWithin is how long publish and revoke look for another member. Only tests change it.
var reachWithin = 20 * time.Second

// defaultLicence is what others may do with an expert unless its owner says otherwise.
const defaultLicence = "Apache-2.0"

func (a *app) publishCommand() *cobra.Command {
	var licence string
	var accept bool
	c := &cobra.Command{
		Use:   "publish NAME",
		Short: "Offer a trained expert to the other members",
		Long: `Signs an offer of the expert that "chorus train" left under this name and a lease on it, and sends
them to the other members, who fetch the expert from this node. It may be repeated after an
interruption. An offer does not change: to say other things of an expert that is on offer, revoke it and publish it again. Without a lease that stands nobody may use the expert: keep the node running, or
the lease runs out.

The offer names the digest of the report that "chorus audit" left beside the expert. Without a report, or with one
whose outcome is block, by its own limits or by those of the charter in force, publish refuses. --accept-leaks publishes nevertheless: text of yours that the
expert gives away, of which nobody has looked how much, or that the report found, can then be had by every
member, and a revocation does not bring back what was had. The others see in the offer whether there is a report.`,
		Example: `  chorus train --data cardiology=./reports
  chorus audit cardiology --data cardiology=./reports
  chorus publish cardiology`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, names []string) error {
			p, err := a.publication(names[0], licence)
			if err != nil {
				return err
			}
			limits, err := a.leakLimits(c.Context())
			if err != nil {
				return err
			}
			if p.LeakReport, err = leakReport(p.Path, names[0], limits, accept); err != nil {
				return err
			}
			return a.control(c.Context(), func(k node.Control) error {
				var offer cid.Cid
				err := a.unlocked(c.Context(), k, func() (err error) {
					offer, err = k.Publish(c.Context(), p)
					return err
				})
				if err != nil {
					return err
				}
				return a.result(map[string]any{"offer": offer.String()}, func() {
					a.say("%s is on offer: %s\nRevoke it with: chorus revoke %s", p.Domain, offer, offer)
					if _, here := k.(*node.Node); here {
						a.say("The others fetch the expert from this node: start it with `chorus up`.")
					}
				})
			})
		},
	}
	c.Flags().StringVar(&licence, "licence", defaultLicence, "SPDX expression of what others may do with the expert")
	c.Flags().BoolVar(&accept, "accept-leaks", false, "publish without a leak report, or with one that says not to: what the expert gives away of your text, every member can have")
	return c
}

// publication reads what training left under a name.
func (a *app) publication(name, licence string) (p node.Publication, err error) {
	p = node.Publication{Path: a.node().ExpertPath(name), Domain: name, Licence: licence, WithinSeconds: reachWithin.Seconds()}
	b, err := os.ReadFile(reportPath(p.Path))
	if errors.Is(err, os.ErrNotExist) {
		return p, withHint(fmt.Errorf("there is no trained expert %q in %s", name, a.node().Training()),
			fmt.Sprintf("train one with `chorus train --data %s=PATH`", name))
	} else if err != nil {
		return p, err
	}
	found, err := readPublished(b)
	if err != nil {
		return p, fmt.Errorf("%s: %w", reportPath(p.Path), err)
	}
	p.Metrics, p.Privacy = found.Metrics, found.Privacy
	return p, nil
}

// reportPath is where training leaves what an expert's offer will say.
func reportPath(expert string) string { return expert + ".json" }

// writeReport leaves beside an expert what its offer will say.
func writeReport(expert string, p published) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(reportPath(expert), durable.Bytes(b))
}

func (a *app) expertsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "experts",
		Short: "List the experts that members offer, and where each stands",
		Example: `  chorus experts
  chorus experts --json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			s, _, err := a.status(c.Context())
			if err != nil {
				return err
			}
			return a.result(s.Experts, func() {
				if len(s.Experts) == 0 {
					a.say("no expert is on offer yet")
					return
				}
				rows := [][]string{{"domain", "member", "size", "state", "in use", "offer"}}
				for _, e := range s.Experts {
					rows = append(rows, []string{e.Domain, e.Member, megabytes(e.Size), e.Words(), yes(e.InUse), e.Offer.String()})
				}
				a.table(rows)
				a.sayExported(s)
				a.sayExports(s.Experts)
				for _, e := range s.Experts {
					if e.Privacy != nil {
						a.say("%s", claimWords(e))
					}
				}
			})
		},
	}
}

// claimWords says what an expert's member claims of its privacy, and whether that follows from the claim's own numbers.
func claimWords(e node.Expert) string {
	words := fmt.Sprintf("%s claims of %s that it is private with %s", e.Member, e.Domain, privacyWords(e.Privacy))
	if err := checkClaim(e.Privacy); err != nil {
		words += fmt.Sprintf(". That does not follow: %v", errors.Unwrap(err))
	}
	return words
}

// sayExported names the other members that have exported an expert of this one.
func (a *app) sayExported(s node.Status) {
	for _, e := range s.Experts {
		for _, x := range e.Exported {
			if e.Member != s.Member || x.Member == s.Member {
				continue
			}
			words := fmt.Sprintf("%s was exported by %s on %s", e.Domain, x.Member, x.Time.Local().Format(time.DateOnly))
			if e.State == ledger.Revoked {
				words += ": ask " + x.Member + " to delete that copy"
			}
			a.say("%s", words)
		}
	}
}

// sayExports names the exported folders that hold experts which may not be used any more.
func (a *app) sayExports(experts []node.Expert) {
	for _, e := range experts {
		for _, dir := range e.Exports {
			if e.State != ledger.Active {
				a.say("%s was exported with %s of %s, which is %s: delete that folder", dir, e.Domain, e.Member, e.State)
			}
		}
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the node is doing",
		Example: `  chorus status
  chorus status --json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			s, _, err := a.status(c.Context())
			if err != nil {
				return err
			}
			return a.result(s, func() {
				a.say("%s of %s", s.Member, s.Charter)
				a.say("connected to: %s", list(s.Connected))
				for _, m := range s.Members {
					a.say("%s", memberWords(m))
				}
				if s.API != "" {
					a.say("local programs: %s/v1", s.API)
				}
				for _, e := range s.Experts {
					a.say("%s (%s): %s, in use: %s", e.Domain, e.Member, e.Words(), yes(e.InUse))
				}
				a.sayExported(s)
				switch {
				case s.Why == node.ErrNotRunning.Error():
					a.say("%s, and serves nothing: start it with `chorus up`", s.Why)
				case s.Why != "":
					a.say("the anchor serves alone: %s", s.Why)
				}
				for _, f := range s.Findings {
					a.say("%s: %s %s", f.Verdict, f.Text, f.Do)
				}
			})
		},
	}
}

// memberWords says what is known of another member.
func memberWords(m node.MemberStatus) string {
	words := m.Name + ": not connected"
	if m.Connected {
		words = m.Name + ": connected"
	} else if !m.Parted.IsZero() {
		words += " since " + m.Parted.Local().Format(time.DateTime)
	}
	if m.Synced.IsZero() {
		words += ", not heard since the node started"
	} else {
		words += ", last in step at " + m.Synced.Local().Format(time.TimeOnly)
	}
	if m.Until.IsZero() {
		return words + ", no lease in force"
	}
	return words + ", leases until " + m.Until.Local().Format(time.DateTime)
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	out := names[0]
	for _, n := range names[1:] {
		out += ", " + n
	}
	return out
}

func (a *app) ledgerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ledger",
		Short: "Show what the node knows and what it did: notices, events, usage",
		Example: `  chorus ledger
  chorus ledger --json > ledger.json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, account, err := a.status(c.Context())
			if err != nil {
				return err
			}
			return a.result(account, func() { a.showAccount(account) })
		},
	}
}

func (a *app) showAccount(account node.Account) {
	rows := [][]string{{"notice", "member", "seq", "signed", "cid"}}
	for _, n := range account.Notices {
		row := []string{n.Kind, n.Member, "", "", n.CID.String()}
		if n.Seq > 0 {
			row[2], row[3] = fmt.Sprint(n.Seq), n.Time.Local().Format(time.DateTime)
		}
		rows = append(rows, row)
	}
	a.table(rows)
	a.say("")
	rows = [][]string{{"event", "time", "expert", "detail"}}
	for _, e := range account.Events {
		rows = append(rows, []string{string(e.Kind), e.Time.Local().Format("2006-01-02 15:04:05.000"), short(e.Expert), e.Detail})
	}
	a.table(rows)
	a.say("")
	rows = [][]string{{"usage", "member", "tokens", "share", "weight"}}
	for _, u := range account.Usage {
		name := u.Domain
		if name == "" {
			name = u.Expert
		}
		rows = append(rows, []string{name, u.Member, thousands(int64(u.Tokens)), fmt.Sprintf("%.1f %%", 100*u.Share), fmt.Sprint(u.Weight)})
	}
	a.table(rows)
}
