package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Make, protect, lend, revoke and replace a member's keys"}
	group(c)
	c.AddCommand(a.keyShow(), a.keyNew(), a.keyPassphrase(), a.keyDelegate(), a.keyRevoke(), a.keyRotate())
	return c
}

// A keyLine is one key in what key show prints.
type keyLine struct {
	File      string           `json:"file,omitempty"` // empty: it is not in the data folder
	Key       notice.PublicKey `json:"key"`
	Protected bool             `json:"protected"`
	Seat      string           `json:"seat,omitempty"`   // what it is to the member now; empty: nothing
	Listed    bool             `json:"listed,omitempty"` // nothing, and still on the charter
}

func (a *app) keyShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show this member's keys: which are here, which are protected, which seat each has",
		Example: `  chorus key show
  chorus key show --json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := a.node().Config(); err != nil {
				return err
			}
			seats := make(map[notice.PublicKey]ledger.Role)
			s, _, err := a.status(c.Context())
			founded := !errors.Is(err, node.ErrNoCharter)
			if err != nil && founded {
				return err
			}
			for _, k := range s.Keys {
				seats[k.Key] = k.Role
			}
			listed := make(map[notice.PublicKey]bool)
			if founded {
				all, err := a.charters(c.Context())
				if err != nil && !errors.Is(err, fs.ErrNotExist) { // of the node key, which is shown to be missing
					return err
				}
				for _, r := range all.Replaced {
					listed[r.Listed] = true
				}
			}
			var lines []keyLine
			paths, err := a.node().KeyFiles()
			if err != nil {
				return err
			}
			for _, path := range paths {
				f, err := node.ReadKeyFile(path)
				if err != nil {
					return err
				}
				lines = append(lines, keyLine{filepath.Base(path), f.Key, f.Protected(), string(seats[f.Key]), listed[f.Key]})
				delete(seats, f.Key)
			}
			for _, k := range s.Keys {
				if _, elsewhere := seats[k.Key]; elsewhere {
					lines = append(lines, keyLine{Key: k.Key, Seat: string(k.Role)})
				}
			}
			return a.result(lines, func() {
				rows := [][]string{{"key", "file", "protected", "seat"}}
				for _, l := range lines {
					file, protected, seat := l.File, yes(l.Protected), l.Seat
					if file == "" {
						file, protected = "not here", ""
					}
					switch {
					case l.Listed:
						seat = "none now, and on the charter until its next version"
					case seat == "" && founded:
						seat = "none now"
					}
					rows = append(rows, []string{l.Key.String(), file, protected, seat})
				}
				a.table(rows)
			})
		},
	}
}

// The keys that key new makes.
const (
	keyRevoker  = "revoker"
	keyDelegate = "delegate"
	keyRenewal  = "renewal"
)

func (a *app) keyNew() *cobra.Command {
	var out string
	var peers []string
	c := &cobra.Command{
		Use:   "new (revoker | delegate | renewal)",
		Short: "Make a key that can do a part of what the publishing key can",
		Long: `Makes a key file that also says which charter and member it is for and where their nodes are, so that it
works on any machine that has it.

A revoker can revoke, and nothing else: its public half goes onto this member's card, which "chorus init" prints again, for
the charter. A delegate can do what "chorus key delegate" lends it, from then on. A renewal key stays in the data folder:
with that power lent to it, the node renews leases while the publishing key is locked.`,
		Example: `  chorus key new revoker --out /media/stick/revoker.key
  chorus key new renewal
  chorus key delegate renewal --renew --until 2027-12-31`,
		ValidArgs: []string{keyRevoker, keyDelegate, keyRenewal},
		Args:      args(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		RunE: func(c *cobra.Command, given []string) error {
			use := given[0]
			config, err := a.node().Config()
			if err != nil {
				return err
			}
			if use == keyRenewal && out == "" {
				out = a.node().RenewalKeyPath()
			}
			if out == "" {
				out = use + ".key"
			}
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return errors.Join(fmt.Errorf("%s is there already: a key is never overwritten", out), err)
			}
			info, err := a.keyInfo(c.Context(), use, peers)
			if err != nil {
				return err
			}
			f, err := node.NewKeyFile(info)
			if err != nil {
				return err
			}
			if err := f.Write(out); err != nil {
				return err
			}
			if use == keyRevoker {
				if err := a.node().AddRevoker(f.Key); err != nil {
					return err
				}
			}
			return a.result(map[string]any{"file": out, "key": f.Key, "peers": f.Peers}, func() {
				a.say("%s holds the key %s", out, f.Key)
				switch {
				case use == keyRevoker && !info.Charter.Defined():
					a.say("It is on this member's card now, which `chorus init %s` prints again for your steward.", config.Member)
				case use == keyRevoker:
					a.say("The charter does not list it yet: lend it the power with `chorus key delegate %s --revoke --until DATE`, or have the stewards add it.", out)
				case use == keyRenewal:
					a.say("It can do nothing yet: lend it the power with `chorus key delegate renewal --renew --until DATE`.")
				default:
					a.say("It can do nothing yet: lend it powers with `chorus key delegate %s --revoke --until DATE`.", out)
				}
				if use != keyRenewal && len(info.Peers) == 0 {
					a.say("It names no node, so that whoever uses it must know an address: see --peer.")
				}
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "where to write it (default: its kind and .key)")
	c.Flags().Var((*peerList)(&peers), "peer", "address of a node that the key's file names (default: all that are known)")
	return c
}

// maxKeyPeers is how many addresses the files of keys name.
const maxKeyPeers = 8

// keyInfo is what the files of this member's keys say.
func (a *app) keyInfo(ctx context.Context, use string, peers []string) (node.KeyInfo, error) {
	config, err := a.node().Config()
	if err != nil {
		return node.KeyInfo{}, err
	}
	info := node.KeyInfo{Use: use, Member: config.Member, Peers: peers}
	charter, err := a.node().LoadCharter()
	if errors.Is(err, node.ErrNoCharter) {
		return info, nil
	} else if err != nil {
		return info, err
	}
	info.Charter = charter.CID
	if len(peers) == 0 {
		info.Peers = a.addresses(ctx, config)
	}
	return info, nil
}

// addresses returns where nodes can be reached, as far as this home knows: others' first, since it may be this machine that is lost.
func (a *app) addresses(ctx context.Context, config node.Config) []string {
	all := append(slices.Clone(config.Peers), a.node().KnownAddresses()...)
	if client, err := node.Dial(ctx, a.node()); err == nil {
		if s, err := client.Status(ctx); err == nil {
			all = append(all, s.Addresses...)
		}
	}
	var some []string
	for _, addr := range all {
		if !slices.Contains(some, addr) && len(some) < maxKeyPeers {
			some = append(some, addr)
		}
	}
	return some
}

func (a *app) keyPassphrase() *cobra.Command {
	var remove bool
	var to string
	c := &cobra.Command{
		Use:   "passphrase",
		Short: "Protect the publishing and recovery keys with a passphrase, change it, or take it away",
		Long: `Encrypts the data folder's publishing key, those that it replaced, and its recovery key if that is still there, with a passphrase (age,
scrypt). The node key and a renewal key are not protected: the node needs them by itself. "chorus up" then asks
for it, and so do the commands that sign, until the node has been given it once: it keeps the key open until it ends. $` + passphraseFile + ` names
a file with it where nobody can be asked. A node that is started without it runs, and renews leases if there is a renewal key: see "chorus key new".`,
		Example: `  chorus key passphrase
  chorus key passphrase --remove`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := a.node().Config(); err != nil {
				return err
			}
			var files []*node.KeyFile
			var paths []string
			pass := ""
			all, err := a.node().KeyFiles()
			if err != nil {
				return err
			}
			own := []string{a.node().PublishingKeyPath(), a.node().RecoveryKeyPath()}
			unattended := []string{a.node().NodeKeyPath(), a.node().RenewalKeyPath()}
			for _, path := range all {
				f, err := node.ReadKeyFile(path)
				if err != nil {
					return err
				}
				old := strings.HasPrefix(path, own[0]+".")
				if !old && !slices.Contains(own, path) {
					if !remove && !f.Protected() && !slices.ContainsFunc(unattended, func(of string) bool { return strings.HasPrefix(path, of) }) {
						a.say("%s stays unprotected: a key like it belongs in a place apart", path)
					}
					continue
				}
				if f.Protected() {
					if pass == "" {
						if pass, err = a.passphrase(c.Context(), path); err != nil {
							return err
						}
					}
					if err := f.Open(pass); errors.Is(err, node.ErrPassphrase) && old {
						a.say("%s has another passphrase, and keeps it", path)
						continue
					} else if err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
				}
				files, paths = append(files, f), append(paths, path)
			}
			fresh := ""
			switch {
			case remove:
			case to != "":
				fresh, err = firstLine(to)
			default:
				fresh, err = a.newPassphrase(c.Context(), a.home)
				if errors.Is(err, errNobodyToAsk) {
					err = withHint(err, "name a file with the new one with --to")
				}
				if err == nil && fresh == "" {
					err = errors.New("an empty passphrase protects nothing: use --remove")
				}
			}
			if err != nil {
				return err
			}
			for i, f := range files {
				if err := f.Protect(fresh); err != nil {
					return err
				}
				if err := f.Write(paths[i]); err != nil {
					return err
				}
				if remove {
					a.say("%s is not protected any more", paths[i])
				} else {
					a.say("%s is protected by a passphrase: nobody can tell it to you if you forget it", paths[i])
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take the protection away")
	c.Flags().StringVar(&to, "to", "", "file whose first line is the new passphrase, where nobody can be asked")
	return c
}

func (a *app) keyDelegate() *cobra.Command {
	var d notice.Delegation
	var until, recovery string
	var offers, peers []string
	c := &cobra.Command{
		Use:   "delegate (FILE | KEY | renewal)",
		Short: "Lend another key the power to revoke experts or to renew leases",
		Long: `Signs a delegation of this member to a key, given by its file or its public half: to revoke, to renew leases,
or both; of all experts or some; until a day. "renewal" is the data folder's own renewal key. It ends earlier when
"chorus key revoke" names the key. The publishing key signs it, or with --recovery the recovery key, whose delegations outlive
the publishing key.`,
		Example: `  chorus key delegate revoker.key --revoke --until 2027-12-31
  chorus key delegate renewal --renew --until 2160h
  chorus key delegate z6Mk… --revoke --offers cardiology --until 2027-12-31`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) (err error) {
			if !d.Revoke && !d.Renew {
				return usageError{errors.New("say which power to lend: --revoke, --renew, or both")}
			}
			if until == "" {
				return usageError{errors.New("say until when it is lent, with --until: a day (2027-12-31), a time (RFC 3339) or a duration (720h)")}
			}
			if d.NotAfter, err = parseUntil(until, time.Now()); err != nil {
				return usageError{err}
			}
			path := given[0]
			if path == keyRenewal {
				path = a.node().RenewalKeyPath()
			}
			var f *node.KeyFile
			if d.Delegate, err = notice.ParsePublicKey(path); err != nil {
				if f, err = node.ReadKeyFile(path); errors.Is(err, fs.ErrNotExist) && given[0] == keyRenewal {
					return withHint(err, "make one with `chorus key new renewal`")
				} else if err != nil {
					return err
				}
				d.Delegate = f.Key
			}
			ctx := c.Context()
			var id cid.Cid
			if recovery != "" {
				id, err = a.delegateByRecovery(ctx, &d, recovery, peers, offers)
			} else {
				id, err = a.delegateByNode(ctx, &d, offers)
			}
			if err != nil {
				return err
			}
			if f != nil && !f.Charter.Defined() {
				if f.KeyInfo, err = a.lentInfo(ctx, f.KeyInfo); err != nil {
					return err
				}
				if err := f.Write(path); err != nil {
					return err
				}
			}
			return a.result(map[string]any{"delegation": id, "key": d.Delegate, "until": d.NotAfter}, func() {
				a.say("%s can %s until %s", d.Delegate, powers(&d), d.NotAfter.Local().Format(time.DateTime))
				a.say("another member has the delegation: %s", id)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&d.Revoke, "revoke", false, "lend the power to revoke experts")
	f.BoolVar(&d.Renew, "renew", false, "lend the power to renew leases")
	f.StringSliceVar(&offers, "offers", nil, "of these experts only, by domain or offer (default: all of the member's)")
	f.StringVar(&until, "until", "", "day, time (RFC 3339) or duration such as 720h")
	f.StringVar(&recovery, "recovery", "", "file of the recovery key, to sign with it")
	f.Var((*peerList)(&peers), "peer", "with --recovery: address of a node to bring it to")
	return c
}

// lentInfo completes what the file of a key says that powers were lent to.
func (a *app) lentInfo(ctx context.Context, info node.KeyInfo) (node.KeyInfo, error) {
	use := info.Use
	if use == "" {
		use = keyDelegate
	}
	full, err := a.keyInfo(ctx, use, info.Peers)
	full.Key = info.Key
	if errors.Is(err, node.ErrNoHome) {
		return info, nil // it was signed away from the data folder
	}
	return full, err
}

func powers(d *notice.Delegation) string {
	what := "all experts"
	if len(d.Offers) > 0 {
		what = fmt.Sprintf("%d experts", len(d.Offers))
	}
	switch {
	case d.Revoke && d.Renew:
		return "revoke " + what + " and renew their leases"
	case d.Revoke:
		return "revoke " + what
	}
	return "renew the leases of " + what
}

// parseUntil reads a day, a time or a duration from now on.
func parseUntil(text string, now time.Time) (time.Time, error) {
	var at time.Time
	d, err := time.ParseDuration(text)
	if err == nil {
		at = now.Add(d)
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if err != nil {
			at, err = time.ParseInLocation(layout, text, time.Local)
		}
	}
	at = at.UTC().Truncate(time.Second)
	switch {
	case err == nil && at.After(now):
		return at, nil
	case err == nil:
		return time.Time{}, fmt.Errorf("%q is over: name a time to come", text)
	}
	return time.Time{}, fmt.Errorf("%q is neither a day (2027-12-31), nor a time (RFC 3339), nor a duration (720h)", text)
}

// scope finds the offers that names stand for.
func scope(names []string, own string, experts []node.Expert) ([]cid.Cid, error) {
	offers := []cid.Cid{}
	for _, name := range names {
		t, _, err := target(name, own, experts, false)
		if err != nil {
			return nil, err
		}
		if !t.Offer.Defined() {
			return nil, usageError{fmt.Errorf("%s is not an expert", name)}
		}
		offers = append(offers, t.Offer)
	}
	slices.SortFunc(offers, notice.CompareCID)
	return slices.Compact(offers), nil
}

func (a *app) delegateByNode(ctx context.Context, d *notice.Delegation, offers []string) (id cid.Cid, err error) {
	err = a.control(ctx, func(k node.Control) error {
		s, err := k.Status(ctx)
		if err != nil {
			return err
		}
		if d.Offers, err = scope(offers, s.Member, s.Experts); err != nil {
			return err
		}
		return a.unlocked(ctx, k, func() error {
			ctx, cancel := context.WithTimeout(ctx, reachWithin)
			defer cancel()
			id, err = k.Declare(ctx, node.Declaration{Delegation: d})
			return err
		})
	})
	return id, err
}

func (a *app) delegateByRecovery(ctx context.Context, d *notice.Delegation, path string, peers, offers []string) (id cid.Cid, err error) {
	e, err := a.recoveryErrand(ctx, path, peers)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if d.Offers, err = scope(offers, e.Member(), node.OfflineStatus("", e.Member(), e.Ledger()).Experts); err != nil {
		return id, err
	}
	sending, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	if id, err = e.Delegate(sending, d); err != nil {
		return id, err
	}
	if err := a.node().Learn(ctx, e.Ledger()); !errors.Is(err, node.ErrNoHome) && !errors.Is(err, node.ErrNoCharter) {
		return id, err
	}
	return id, nil
}

// recoveryErrand goes out with the recovery key, to a node that is named, that the key's file names or that the data folder knows.
func (a *app) recoveryErrand(ctx context.Context, path string, peers []string) (*node.Errand, error) {
	f, err := a.readKey(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(err, "say where the recovery key is with --recovery", "`chorus recovery import` makes its file from paper")
	} else if err != nil {
		return nil, err
	}
	if len(peers)+len(f.Peers) == 0 {
		if info, err := a.keyInfo(ctx, "", nil); err == nil {
			f.Charter, f.Peers = info.Charter, info.Peers
		}
	}
	e, err := a.errand(ctx, f, peers)
	if err != nil {
		return nil, err
	}
	config, err := a.node().Config()
	switch {
	case errors.Is(err, node.ErrNoHome):
		err = nil // it is done away from the data folder
	case err == nil && e.Member() != config.Member:
		err = fmt.Errorf("%s is a key of %s, and %s is the data folder of %s", path, e.Member(), a.home, config.Member)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (a *app) keyRevoke() *cobra.Command {
	var w withdrawal
	c := &cobra.Command{
		Use:   "revoke (FILE | KEY)",
		Short: "Withdraw a key for ever, and whatever it alone stands for",
		Long: `Revokes a key of this member's, given by its file or its public half. Of a publishing key, all experts that it offered are revoked;
of a node key, no node lets it in; of a revoker or a delegate, it can do nothing more. The publishing key can revoke itself
and those it lent powers to; a revoker and the recovery key, with --key, can revoke any but the recovery key.`,
		Example: `  chorus key revoke lost.key --reason "laptop stolen"
  chorus key revoke z6Mk… --key /media/stick/recovery.key --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3Koo…`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			key, err := notice.ParsePublicKey(given[0])
			if err != nil {
				f, err := node.ReadKeyFile(given[0])
				if err != nil {
					return err
				}
				key = f.Key
			}
			if w.key != "" {
				return a.revokeByKey(c.Context(), w, key.String())
			}
			s, _, err := a.status(c.Context())
			if err != nil {
				return err
			}
			for _, k := range s.Keys {
				if k.Key == key && k.Role != ledger.RolePublishing && k.Role != ledger.RoleDelegate {
					return withHint(fmt.Errorf("%s is the %s key of %s, which its publishing key cannot revoke", key, k.Role, s.Member),
						"use the recovery key or a revoker: `chorus key revoke KEY --key FILE`")
				}
			}
			return a.revokeByNode(c.Context(), w, key.String())
		},
	}
	f := c.Flags()
	f.StringVar(&w.reason, "reason", "", "why, for people to read")
	f.DurationVar(&w.wait, "wait", 20*time.Second, "how long to wait for the members that are online to say that they have dropped what ends by it")
	f.StringVar(&w.key, "key", "", "file of the key to sign with, on any machine")
	f.Var((*peerList)(&w.peers), "peer", "address of a node to bring it to (repeatable; a key's file may name some)")
	return c
}
