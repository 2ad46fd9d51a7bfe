package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"chorus/ledger/notice"
	"chorus/node/invite"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

func (a *app) charterCommand() *cobra.Command {
	c := &cobra.Command{Use: "charter", Short: "Found a consortium, see its charter and change it"}
	group(c)
	c.AddCommand(a.charterNew(), a.charterProposal(), a.charterSign(), a.charterShow(), a.charterVerify(), a.charterUse())
	return c
}

// Terms of a new charter.
const (
	leaseSeconds   = 24 * 60 * 60
	leaseCeiling   = 7 * leaseSeconds
	maxExpertBytes = 16 << 30
	offersPerDay   = 20
)

// limitsHelp is what the help of --leak-limits says.
const limitsHelp = `--leak-limits names a JSON file of what an audit of an expert may find before it is published, as
` + limitsForm + `.
A report's last table says what they mean. {} stands for chorus's own.`

const limitsForm = `{"extraction": {"warn": 0.01, "block": 0.05}, "membership": …, "epsilon": …, "personal": …}`

func (a *app) charterNew() *cobra.Command {
	var anchor, out, limits string
	lease := int64(leaseSeconds)
	c := &cobra.Command{
		Use:   "new NAME [CARD...]",
		Short: "Sign the charter of a new consortium, as its steward",
		Long: `Signs the first version of a charter with this data folder's publishing key: its member is the
steward. The cards are what the members' own "chorus init" printed; the steward's is added. Without cards the steward
begins alone, and others join by "chorus invite".
The anchor's folder is taken into the data folder, from where the other members fetch it.

` + limitsHelp,
		Example: `  chorus charter new heart-hospitals                   others join later, by invitation
  chorus charter new heart-hospitals clinic.json north.json --anchor ./anchor --out charter.json`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			if _, err := a.node().Config(); err != nil {
				return err
			}
			members, err := readCards(given[1:])
			if err != nil {
				return err
			}
			leaks, err := readLimits(limits)
			if err != nil {
				return err
			}
			id, err := a.node().ImportAnchor(c.Context(), anchor)
			if err != nil {
				return noAnchor(anchor, err)
			}
			n, err := a.foundCharter(c.Context(), given[0], id, lease, leaks, members)
			if err != nil {
				return err
			}
			if err := a.node().SetCharter(n); err != nil {
				return err
			}
			if err := os.WriteFile(out, n.Envelope, 0o644); err != nil {
				return err
			}
			if len(members) == 0 {
				a.say("%s is founded: charter %s. This member is its steward, and alone.", given[0], short(n.CID))
				a.say("Invite others with `chorus invite ORGANISATION`: each then joins with the code that it prints.")
				return nil
			}
			a.say(`%s is founded: charter %s, %d members.
Start this node with "chorus up", and send the others %s and the address that it prints.
Each of them runs "chorus charter use %s --peer ADDRESS" and "chorus up".`, given[0], short(n.CID), len(members)+1, out, out)
			return nil
		},
	}
	c.Flags().StringVar(&anchor, "anchor", "anchor", "the anchor's folder")
	c.Flags().StringVar(&out, "out", "charter.json", "where to write the charter")
	c.Flags().Int64Var(&lease, "lease-seconds", leaseSeconds, "how long a lease lasts")
	c.Flags().StringVar(&limits, "leak-limits", "", "file with the limits of audits (default: chorus's own)")
	return c
}

// readCards reads what "chorus init" printed on each member's machine.
func readCards(paths []string) (members []notice.Member, err error) {
	for _, path := range paths {
		var m notice.Member
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &m, json.RejectUnknownMembers(true))
		}
		if err == nil {
			err = invite.CheckCard(m)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		members = append(members, m)
	}
	return members, nil
}

// readLimits reads what a charter says about leaks; of no file, or of {}, that is nothing. A limit that is left out would be 0, which nothing
// keeps.
func readLimits(path string) (l notice.LeakLimits, err error) {
	if path == "" {
		return l, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	var given map[string]struct{}
	if err = json.Unmarshal(b, &l, json.RejectUnknownMembers(true)); err == nil {
		err = json.Unmarshal(b, &given)
	}
	switch {
	case err != nil || len(given) == 0:
	case len(given) < 4:
		err = errors.New("not all four limits are there")
	case l == notice.LeakLimits{}:
		err = errors.New("limits that are all 0 would stand for chorus's own")
	}
	if err != nil {
		return l, withHint(fmt.Errorf("%s is no JSON of limits: %w", path, err), "write them as "+limitsForm)
	}
	return l, nil
}

// foundCharter signs a first charter with the home's member as the one steward.
func (a *app) foundCharter(ctx context.Context, name string, anchor cid.Cid, lease int64, leaks notice.LeakLimits, members []notice.Member) (*notice.Notice, error) {
	config, err := a.node().Config()
	if err != nil {
		return nil, err
	}
	me, err := a.node().Member(config.Member)
	if err != nil {
		return nil, err
	}
	f, err := a.readKey(ctx, a.node().PublishingKeyPath())
	if err != nil {
		return nil, err
	}
	key, err := f.Private()
	if err != nil {
		return nil, err
	}
	members = append(members, me)
	slices.SortFunc(members, func(a, b notice.Member) int { return strings.Compare(a.Name, b.Name) })
	return notice.Sign(&notice.Charter{
		Name: name, Version: 1, Anchor: anchor, Members: members, Stewards: []string{me.Name}, Quorum: 1,
		LeaseSeconds: lease, LeaseCeilingSeconds: max(leaseCeiling, lease), MaxBlobBytes: maxExpertBytes, OffersPerDay: offersPerDay, Leak: leaks,
	}, key)
}

func (a *app) charterUse() *cobra.Command {
	var peers []string
	c := &cobra.Command{
		Use:   "use FILE...",
		Short: "Take a charter into use",
		Long: `Takes a charter into use that a steward has sent as a file: version 1 alone if it lists this member, or every version up
to one that does. Where a steward's node can be reached, "chorus join" does all of it.`,
		Example: `  chorus charter use charter.json --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3Koo…
  chorus charter use versions/*.json`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			chain, err := readChain(given)
			if err != nil {
				return err
			}
			n := chain[len(chain)-1]
			if err := a.node().SetCharter(chain...); err != nil {
				return err
			}
			config, err := a.node().Config()
			if err != nil {
				return err
			}
			if len(peers) > 0 {
				config.Peers = append(config.Peers, peers...)
				if err := a.node().SetConfig(config); err != nil {
					return err
				}
			}
			c := n.Body.(*notice.Charter)
			a.say("This node belongs to %s: %d members, charter %s.", c.Name, len(c.Members), short(n.CID))
			if len(config.Peers) == 0 && len(c.Members) > 1 {
				a.say("It knows no other member's address yet: ask your steward for one, and repeat this with --peer.")
			}
			a.say("Start it with `chorus up`.")
			return nil
		},
	}
	c.Flags().Var((*peerList)(&peers), "peer", "address of another member's node, as its `chorus up` prints it (repeatable)")
	return c
}
