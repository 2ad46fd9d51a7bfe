package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"chorus/model"
	"chorus/node"

	"github.com/spf13/cobra"
)

// Defaults of a new node.
const (
	defaultListen = "/ip4/0.0.0.0/tcp/4101"
	defaultAPI    = "127.0.0.1:8470"
)

func (a *app) initCommand() *cobra.Command {
	config := node.Config{Weights: model.Packed, Peers: []string{}}
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
			fmt.Fprintf(a.err, "%s is ready.\n", a.home)
			if !me.Recovery.IsZero() {
				fmt.Fprintf(a.err, "Move %s off this machine, or print it with `chorus recovery export --key` and delete it.\n", a.node().RecoveryKeyPath())
			}
			fmt.Fprintf(a.err, "Send this card to your steward:\n")
			return json.NewEncoder(a.out).Encode(me)
		},
	}
	c.Flags().StringSliceVar(&config.Listen, "listen", []string{defaultListen}, "multiaddr to listen on for other members")
	c.Flags().Var((*peerList)(&config.Peers), "peer", "multiaddr of another member, ending in /p2p/…")
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
			pass, err := a.passphraseAtStart(ctx)
			if err != nil {
				return err
			}
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
			var s node.Status
			if pass != "" {
				err = n.Open(ctx, pass)
			}
			if err == nil {
				s, err = n.Status(ctx)
			}
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

// passphraseAtStart returns the passphrase of the publishing key, tried; it is empty if that is not protected, or stays locked.
func (a *app) passphraseAtStart(ctx context.Context) (string, error) {
	path := a.node().PublishingKeyPath()
	f, err := node.ReadKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // New says what is missing
	} else if err != nil || !f.Protected() {
		return "", err
	}
	pass, err := a.passphrase(ctx, path+" (none: it stays locked)")
	if errors.Is(err, errNobodyToAsk) || err == nil && pass == "" {
		a.say("%s stays locked: commands that sign ask for its passphrase. Leases are renewed only if renewal.key has been lent that power.", path)
		return "", nil
	} else if err != nil {
		return "", err
	}
	if err := f.Open(pass); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return pass, nil
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
