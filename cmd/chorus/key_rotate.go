package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node"

	"github.com/spf13/cobra"
)

func (a *app) keyRotate() *cobra.Command {
	var recovery string
	var peers []string
	var ofNode, publish, yes bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the publishing key, or the node's, by a new one",
		Long: `Makes a new publishing key, or with --node a new node key, and has the recovery key name it in place of the old
one, which that revokes: whoever stole it can neither publish, lease nor connect with it. The data folder takes the new key into use; the
old one stays beside it, as .old.

Charters are another matter: each version is judged by the keys that the one before it lists, so that a steward's old key signs charters, and
its new one does not, until a version lists the new one. "chorus charter propose" draws that up, and the command does so itself where this
node runs. The steward's old key is needed for it, or another steward's signature.

The experts that the old publishing key offered are revoked with it: publish them again, or give --publish, which does it for
those whose training is still here. It may be repeated after an interruption.`,
		Example: `  chorus key rotate --recovery /media/stick/recovery.key
  chorus key rotate --node --recovery /media/stick/recovery.key`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			role, path := notice.RotatePublishing, a.node().PublishingKeyPath()
			if ofNode {
				role, path = notice.RotateNode, a.node().NodeKeyPath()
			}
			if ofNode && publish {
				return usageError{errors.New("a new node key withdraws nothing, so that there is nothing to --publish")}
			}
			if recovery == "" {
				recovery = a.node().RecoveryKeyPath()
			}
			if !ofNode {
				if err := a.mayRotate(c, yes); err != nil {
					return err
				}
			}
			return a.rotate(c.Context(), role, path, recovery, peers, publish)
		},
	}
	f := c.Flags()
	f.StringVar(&recovery, "recovery", "", "file of the recovery key (default: the data folder's, if it is still there)")
	f.BoolVar(&ofNode, "node", false, "the node's key, and not the publishing key")
	f.BoolVar(&publish, "publish", false, "publish again what was on offer, where its training is here")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.Var((*peerList)(&peers), "peer", "address of a node to bring it to (default: all that are known)")
	return c
}

// mayRotate asks where a new publishing key could never come onto the charter.
func (a *app) mayRotate(c *cobra.Command, yes bool) error {
	all, err := a.charters(c.Context())
	if errors.Is(err, fs.ErrNotExist) { // of a node key that is lost too
		return nil
	} else if err != nil {
		return err
	}
	charter := inForce(all)
	m, _ := charter.Named(all.Member)
	if !charter.Steward(all.Member) || charter.Quorum < len(charter.Stewards) {
		return nil
	}
	if f, err := node.ReadKeyFile(a.node().PublishingKeyPath()); err == nil && f.Key == m.Publishing {
		return nil
	}
	if _, _, err := a.node().Replaced(m.Publishing); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Fprintf(a.err, `This steward's publishing key that the charter lists is not in %s, and there is no quorum without it: with a new key
too nobody will ever be admitted or removed. If a copy of the old one is anywhere, put it there first, as publishing.key.
`, a.home)
	return a.confirm(c, yes, "Name a new key all the same?")
}

func (a *app) rotate(ctx context.Context, role notice.RotatedRole, path, recovery string, peers []string, publish bool) (err error) {
	if _, err := a.node().LoadCharter(); err != nil {
		return err
	}
	e, err := a.recoveryErrand(ctx, recovery, peers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	replacement, err := a.replacement(ctx, path)
	if err != nil {
		return err
	}
	var offered []node.Expert
	for _, x := range node.OfflineStatus("", e.Member(), e.Ledger()).Experts {
		if x.Member == e.Member() && x.State != ledger.Revoked {
			offered = append(offered, x)
		}
	}
	private, err := replacement.Private()
	if err != nil {
		return err
	}
	sending, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	var last notice.PublicKey
	if old, err := node.ReadKeyFile(path); err == nil {
		last = old.Key
	}
	if _, err := e.Rotate(sending, role, last, private); err != nil {
		return err
	}
	if err := a.node().Learn(ctx, e.Ledger()); err != nil {
		return err
	}
	if err := a.node().Replace(path); err != nil {
		return err
	}
	a.say("%s is the %s key of %s now, and the old one is revoked: %s has it", replacement.Key, role, e.Member(), e.Peer())
	if role == notice.RotateNode {
		a.say("Start the node again with `chorus up`, and give the others its address, which ends in another name now.")
		return nil
	}
	a.say("What was signed ahead with the old key, and what it lent, is void: see `chorus recovery export` and `chorus key delegate`.")
	a.listNewKey(ctx)
	if len(offered) == 0 {
		return nil
	}
	if !publish {
		a.say("Publish again what was on offer, which is revoked with the old key:")
		for _, x := range offered {
			a.say("  chorus publish %s", x.Domain)
		}
		return nil
	}
	var failed []error
	for _, x := range offered {
		if err := a.republish(ctx, x); err != nil {
			failed = append(failed, withHint(fmt.Errorf("%s is not on offer again: %w", x.Domain, err), "once that is mended: `chorus publish "+x.Domain+"`"))
		}
	}
	return errors.Join(failed...)
}

// listNewKey has a steward's new key put on the charter, if its node runs, or says what is left to do.
func (a *app) listNewKey(ctx context.Context) {
	all, err := a.charters(ctx)
	if err == nil && !slices.ContainsFunc(all.Replaced, func(r node.Replaced) bool {
		return r.Steward && r.Member == all.Member && r.Role == notice.RotatePublishing
	}) {
		return
	}
	a.say("For charters the old key counts until a version lists the new one.")
	var s node.Signed
	if err == nil {
		var client *node.Client
		if client, err = node.Dial(ctx, a.node()); err == nil {
			err = a.unlocked(ctx, client, func() (err error) {
				s, err = client.Propose(ctx, node.Change{Caution: node.Caution{WithinSeconds: reachWithin.Seconds()}})
				return err
			})
		}
	}
	if err != nil {
		a.say("None was proposed, since %v.\nOnce that is mended: `chorus charter propose`", err)
		return
	}
	a.saySigned(s)
}

// replacement returns the key that is to take the place of the one at path: a new one, or the one that an interrupted attempt made. It is
// protected as the old one is.
func (a *app) replacement(ctx context.Context, path string) (*node.KeyFile, error) {
	f, err := node.ReadKeyFile(path + ".new")
	if err == nil && f.Protected() {
		return a.readKey(ctx, path+".new")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f, err = node.NewKeyFile(node.KeyInfo{}); err != nil {
		return nil, err
	}
	if old, err := node.ReadKeyFile(path); err == nil && old.Protected() {
		pass, err := a.passphrase(ctx, path)
		if err != nil {
			return nil, err
		}
		if err := old.Open(pass); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := f.Protect(pass); err != nil {
			return nil, err
		}
	}
	return f, f.Write(path + ".new")
}

// republish offers an expert again that training left here. The owner has accepted before what it gives away, if it is the same one.
func (a *app) republish(ctx context.Context, was node.Expert) error {
	p, err := a.publication(was.Domain, defaultLicence)
	if err != nil {
		return err
	}
	blob, err := blobOf(p.Path)
	if err != nil {
		return err
	}
	limits, err := a.leakLimits(ctx)
	if err != nil {
		return err
	}
	if p.LeakReport, err = leakReport(p.Path, was.Domain, limits, blob == was.Blob); err != nil {
		return err
	}
	return a.control(ctx, func(k node.Control) error {
		return a.unlocked(ctx, k, func() error {
			offer, err := k.Publish(ctx, p)
			if err == nil {
				a.say("%s is on offer again: %s", p.Domain, offer)
			}
			return err
		})
	})
}
