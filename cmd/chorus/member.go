package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/ledger/notice"
	"chorus/model"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

// Defaults of a new node.
const (
	defaultListen = "/ip4/0.0.0.0/tcp/4101"
	defaultAPI    = "127.0.0.1:8470"
)

func (a *app) initCommand() *cobra.Command {
	config := node.Config{Weights: model.Packed}
	c := &cobra.Command{
		Use:   "init NAME",
		Short: "Make a member's data folder and keys",
		Long: `Makes the data folder, three keys and a configuration, and prints the member's card: name and
public keys, for the stewards to put on the charter. What exists is kept.

The recovery key, recovery.key, replaces the others if they are lost or stolen. The node does not need
it: move it to a place that is not on this machine.`,
		Example: `  chorus init clinic > clinic.json      send clinic.json to your steward`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, names []string) error {
			config.Member = names[0]
			if err := a.keepsConfig(c, config); err != nil {
				return err
			}
			if err := a.node().Init(config); err != nil {
				return err
			}
			me, err := a.node().Member(names[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.err, "%s is ready. Send this card to your steward:\n", a.home)
			return json.NewEncoder(a.out).Encode(me)
		},
	}
	c.Flags().StringSliceVar(&config.Listen, "listen", []string{defaultListen}, "multiaddr to listen on for other members")
	c.Flags().StringSliceVar(&config.Peers, "peer", []string{}, "multiaddr of another member, ending in /p2p/…")
	c.Flags().StringVar(&config.API, "api", defaultAPI, "address of the endpoint for local programs")
	return c
}

// keepsConfig refuses flags of init that say something else than the configuration that is there: it is kept, and
// a flag that nobody minds is worse than an error.
func (a *app) keepsConfig(c *cobra.Command, want node.Config) error {
	have, err := a.node().Config()
	if errors.Is(err, node.ErrNoHome) {
		return nil
	} else if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		same bool
	}{
		{"listen", slices.Equal(have.Listen, want.Listen)},
		{"peer", slices.Equal(have.Peers, want.Peers)},
		{"api", have.API == want.API},
	} {
		if c.Flags().Changed(f.name) && !f.same {
			config := filepath.Join(a.home, "config.toml")
			return withHint(fmt.Errorf("%s is set up already, and --%s is not what %s says", a.home, f.name, config), "change it in "+config)
		}
	}
	return nil
}

func (a *app) charterCommand() *cobra.Command {
	c := &cobra.Command{Use: "charter", Short: "Found a consortium, or take its charter into use"}
	group(c)
	c.AddCommand(a.charterNew(), a.charterUse(), a.charterShow())
	return c
}

// Terms of a new charter.
const (
	leaseSeconds   = 24 * 60 * 60
	leaseCeiling   = 7 * leaseSeconds
	maxExpertBytes = 16 << 30
	offersPerDay   = 20
)

func (a *app) charterNew() *cobra.Command {
	var anchor, out, limits string
	lease := int64(leaseSeconds)
	c := &cobra.Command{
		Use:   "new NAME CARD...",
		Short: "Sign the charter of a new consortium, as its steward",
		Long: `Signs the first version of a charter with this data folder's publishing key: its member is the
steward. The cards are what the members' own "chorus init" printed; the steward's is added.
The anchor's folder is taken into the data folder, from where the other members fetch it.

--leak-limits names a JSON file of what an audit of an expert may find before it is published, as
{"extraction": {"warn": 0.01, "block": 0.05}, "membership": …, "epsilon": …, "personal": …}. A report's last table says what they mean.`,
		Example: `  chorus charter new heart-hospitals clinic.json north.json --anchor ./anchor --out charter.json`,
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			if _, err := a.node().Config(); err != nil {
				return err
			}
			var members []notice.Member
			for _, path := range given[1:] {
				var m notice.Member
				b, err := os.ReadFile(path)
				if err == nil {
					err = json.Unmarshal(b, &m)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				members = append(members, m)
			}
			leaks, err := readLimits(limits)
			if err != nil {
				return err
			}
			id, err := a.node().ImportAnchor(c.Context(), anchor)
			if err != nil {
				return err
			}
			n, err := a.foundCharter(given[0], id, lease, leaks, members)
			if err != nil {
				return err
			}
			if err := a.node().SetCharter(n); err != nil {
				return err
			}
			if err := os.WriteFile(out, n.Envelope, 0o644); err != nil {
				return err
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

// readLimits reads what a charter says about leaks; of no file, that is nothing.
func readLimits(path string) (l notice.LeakLimits, err error) {
	if path == "" {
		return l, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// foundCharter signs a first charter with the home's member as the one steward.
func (a *app) foundCharter(name string, anchor cid.Cid, lease int64, leaks notice.LeakLimits, members []notice.Member) (*notice.Notice, error) {
	config, err := a.node().Config()
	if err != nil {
		return nil, err
	}
	me, err := a.node().Member(config.Member)
	if err != nil {
		return nil, err
	}
	key, err := a.node().PublishingKey()
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
		Use:     "use FILE",
		Short:   "Take a charter into use",
		Example: `  chorus charter use charter.json --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3Koo…`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			n, err := node.ReadNotice(given[0])
			if err != nil {
				return err
			}
			if err := a.node().SetCharter(n); err != nil {
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
	c.Flags().StringSliceVar(&peers, "peer", nil, "address of another member's node, as its `chorus up` prints it (repeatable)")
	return c
}

func (a *app) charterShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the charter",
		Example: `  chorus charter show
  chorus charter show --json`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			n, err := a.node().LoadCharter()
			if err != nil {
				return err
			}
			c := n.Body.(*notice.Charter)
			return a.result(c, func() {
				a.say("%s, version %d, charter %s", c.Name, c.Version, n.CID)
				a.say("anchor %s", c.Anchor)
				a.say("leases of %d s, at most %d s; experts of at most %s, %d offers a day; quorum %d of %d stewards", c.LeaseSeconds, c.LeaseCeilingSeconds, megabytes(c.MaxBlobBytes), c.OffersPerDay, c.Quorum, len(c.Stewards))
				if c.Leak != (notice.LeakLimits{}) {
					a.say("audits warn and block above: extraction %v, membership %v, epsilon %v, personal data %v", c.Leak.Extraction, c.Leak.Membership, c.Leak.Epsilon, c.Leak.Personal)
				}
				rows := [][]string{{"member", "", "publishing key", "node key"}}
				for _, m := range c.Members {
					role := ""
					if slices.Contains(c.Stewards, m.Name) {
						role = "steward"
					}
					rows = append(rows, []string{m.Name, role, short(m.Publishing), short(m.Node)})
				}
				a.table(rows)
			})
		},
	}
}

func (a *app) upCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Run the node",
		Long: `Runs the node until Ctrl-C: it keeps in touch with the other members, renews the leases of this
member's experts, assembles the mixture, and serves local programs over the OpenAI protocol.`,
		Example: `  chorus up
  curl http://127.0.0.1:8470/v1/completions -d '{"model":"chorus","prompt":"Light is"}'`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			report, end := a.transfer("anchor")
			n, err := node.New(ctx, a.node(), node.Options{Serve: true, Log: a.logger(),
				Waiting: func(addresses []string) {
					a.say("This node is at %s.\nIt waits for another member, to fetch the anchor from: name one under `peers` in %s, or let one name this node.",
						list(addresses), filepath.Join(a.home, "config.toml"))
				},
				Progress: report})
			end()
			if err != nil {
				return err
			}
			s, err := n.Status(ctx)
			if err == nil {
				a.say("%s of %s is up.\n  for local programs   %s/v1\n  for other members    %s", s.Member, s.Charter, s.API, list(s.Addresses))
				err = a.follow(ctx, n)
			}
			if errors.Is(err, ctx.Err()) {
				err = nil // Ctrl-C is how a node ends
			}
			return errors.Join(err, n.Close())
		},
	}
}

// follow prints every change of the mixture until ctx ends.
func (a *app) follow(ctx context.Context, n *node.Node) error {
	var last *node.Mixture
	for {
		changed := n.Changed()
		if m := n.Mixture(); m != last {
			last = m
			a.say("%s", mixtureLine(m))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func mixtureLine(m *node.Mixture) string {
	if len(m.Experts) == 0 {
		return "serving the anchor alone: " + m.Why
	}
	var names []string
	for _, e := range m.Experts {
		names = append(names, fmt.Sprintf("%s (%s)", e.Domain, e.Member))
	}
	return "serving the anchor and the experts " + list(names)
}
