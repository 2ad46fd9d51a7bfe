package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"chorus/durable"
	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"
	"rsc.io/qr"
)

func (a *app) recoveryCommand() *cobra.Command {
	c := &cobra.Command{Use: "recovery", Short: "Keep on paper what ends a member's consent when all else is lost"}
	group(c)
	c.AddCommand(a.recoveryExport(), a.recoveryImport())
	return c
}

// carriedFor is how long the key that a sheet of signed revocations brings along is lent its power.
const carriedFor = 10 * 365 * 24 * time.Hour

// A sheet is what is printed of revocations that are signed ahead of their need: them, and a key whose only use is to be let in
// by a node to bring them.
type sheet struct {
	carrier ed25519.PrivateKey
	notices []*notice.Notice
}

const sheetVersion = 1

func (s sheet) encode() ([]byte, error) {
	b := append([]byte{sheetVersion}, s.carrier.Seed()...)
	for _, n := range s.notices {
		short, err := n.Short()
		if err != nil {
			return nil, err
		}
		b = append(b, short...)
	}
	return b, nil
}

func parseSheet(b []byte) (s sheet, err error) {
	if len(b) < 1+ed25519.SeedSize || b[0] != sheetVersion {
		return s, fmt.Errorf("%w: not a sheet of revocations that this chorus knows", errPaper)
	}
	s.carrier = ed25519.NewKeyFromSeed(b[1 : 1+ed25519.SeedSize])
	for b = b[1+ed25519.SeedSize:]; len(b) > 0; {
		var n *notice.Notice
		if n, b, err = notice.ParseShort(b); err != nil {
			return s, err
		}
		if len(s.notices) > 0 && n.Header().Charter != s.notices[0].Header().Charter {
			return s, fmt.Errorf("%w: revocations of two consortia", errPaper)
		}
		s.notices = append(s.notices, n)
	}
	if len(s.notices) == 0 {
		return s, fmt.Errorf("%w: no revocation", errPaper)
	}
	return s, nil
}

func (a *app) recoveryExport() *cobra.Command {
	var key, code, each bool
	var out, image, reason string
	var offers []string
	c := &cobra.Command{
		Use:   "export",
		Short: "Print signed revocations, or the recovery key, to keep on paper",
		Long: `Signs the revocation of this member's publishing key, and with it of everything that the member has on offer, ahead of its
need, and prints it in short lines to type, or with --qr and --png as a code to scan. With --offers or --each it prints revocations of
single experts, instead. Whoever has the sheet can do what is on it from any machine:

  chorus revoke --presigned FILE --peer ADDRESS

The sheet brings a key along that nodes let in for that, and which may revoke: with a program of their own, whoever has the sheet could
revoke any expert of this member, and do nothing else. Keep it as you would keep a revoker's key.

With --key it prints the recovery key itself, which can also name new keys. "chorus recovery import" reads it back, and with --check
says whether what you typed is right; then move recovery.key off this machine.`,
		Example: `  chorus recovery export --qr
  chorus recovery export --each --out sheet.txt --png sheet.png
  chorus recovery export --key`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if key && (each || len(offers) > 0) || each && len(offers) > 0 {
				return usageError{errors.New("export one of these: the key, or revocations of each expert or of those that --offers names")}
			}
			config, err := a.node().Config()
			if err != nil {
				return err
			}
			var kind, head string
			var b []byte
			if key {
				kind = paperKey
				head = fmt.Sprintf("# The recovery key of %s. Whoever has it can revoke for %s and name its new keys.\n# To read it back: chorus recovery import -\n", config.Member, config.Member)
				b, err = a.recoverySeed(c.Context())
			} else {
				kind = paperPresigned
				head, b, err = a.presign(c.Context(), config, offers, each, reason)
			}
			if err != nil {
				return err
			}
			return a.print(kind, head, b, out, image, code)
		},
	}
	f := c.Flags()
	f.BoolVar(&key, "key", false, "the recovery key itself")
	f.StringSliceVar(&offers, "offers", nil, "revocations of these experts only, by domain or offer")
	f.BoolVar(&each, "each", false, "a revocation of each expert that is on offer now, instead of the key's")
	f.StringVar(&reason, "reason", "", "why, for people to read when it is used")
	f.StringVar(&out, "out", "", "write the text to this file, readable by you alone")
	f.StringVar(&image, "png", "", "write a QR code to this file, readable by you alone")
	f.BoolVar(&code, "qr", false, "print a QR code")
	return c
}

func (a *app) recoverySeed(ctx context.Context) ([]byte, error) {
	path := a.node().RecoveryKeyPath()
	f, err := a.readKey(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("%s is not here", path), "if it was moved away, put it back for this, with mode 0600")
	} else if err != nil {
		return nil, err
	}
	private, err := f.Private()
	if err != nil {
		return nil, err
	}
	return private.Seed(), nil
}

// print writes what is to be kept on paper where it was asked for.
func (a *app) print(kind, head string, b []byte, out, image string, code bool) error {
	text := head + writePaper(kind, b)
	short := codePaper(kind, b)
	if out != "" {
		if err := durable.WriteFile(out, durable.Bytes([]byte(text))); err != nil {
			return err
		}
	}
	if image != "" {
		c, err := qr.Encode(short, qr.L)
		if err != nil {
			return fmt.Errorf("too much for one QR code: %w", err)
		}
		if err := durable.WriteFile(image, durable.Bytes(c.PNG())); err != nil {
			return err
		}
	}
	if code {
		if _, err := qr.Encode(short, qr.L); err != nil {
			return fmt.Errorf("too much for one QR code: %w", err)
		}
		qrterminal.GenerateHalfBlock(short, qr.L, a.out)
	}
	return a.result(map[string]any{"kind": kind, "code": short}, func() {
		if out == "" {
			a.say("%s", strings.TrimRight(text, "\n"))
		}
		for _, path := range []string{out, image} {
			if path != "" {
				a.say("%s is written: print it, keep the paper apart, and delete the file", path)
			}
		}
	})
}

// presign signs a sheet and has the key that it brings along let in by the nodes.
func (a *app) presign(ctx context.Context, config node.Config, offers []string, each bool, reason string) (head string, b []byte, err error) {
	f, err := a.readKey(ctx, a.node().PublishingKeyPath())
	if err != nil {
		return "", nil, err
	}
	private, err := f.Private()
	if err != nil {
		return "", nil, err
	}
	charter, err := a.node().LoadCharter()
	if err != nil {
		return "", nil, err
	}
	_, carrier, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	page := sheet{carrier: carrier}
	var what []string
	sign := func(r notice.Revocation, words string) error {
		r.Reason = reason
		r.Header = notice.Header{Charter: charter.CID, Key: f.Key, Time: time.Now()}
		n, err := notice.Sign(&r, private)
		page.notices, what = append(page.notices, n), append(what, words)
		return err
	}
	err = a.control(ctx, func(k node.Control) error {
		s, err := k.Status(ctx)
		if err != nil {
			return err
		}
		var chosen []cid.Cid
		switch {
		case each:
			for _, e := range s.Experts {
				if e.Member == s.Member && e.State != ledger.Revoked {
					chosen = append(chosen, e.Offer)
				}
			}
			if len(chosen) == 0 {
				return fmt.Errorf("%s has nothing on offer", s.Member)
			}
		case len(offers) > 0:
			if chosen, err = scope(offers, s.Member, s.Experts); err != nil {
				return err
			}
		default:
			err = sign(notice.Revocation{RevokedKey: f.Key}, "the publishing key of "+s.Member+", and with it all that it has on offer")
		}
		for _, offer := range chosen {
			words := offer.String()
			for _, e := range s.Experts {
				if e.Offer == offer {
					words = e.Domain + ", " + words
				}
			}
			err = errors.Join(err, sign(notice.Revocation{Offer: offer}, words))
		}
		if err != nil {
			return err
		}
		return a.unlocked(ctx, k, func() error {
			ctx, cancel := context.WithTimeout(ctx, reachWithin)
			defer cancel()
			_, err := k.Declare(ctx, node.Declaration{Delegation: &notice.Delegation{
				Delegate: notice.PublicKeyOf(carrier), Revoke: true, Offers: []cid.Cid{}, NotAfter: time.Now().Add(carriedFor).UTC().Truncate(time.Second),
			}})
			return err
		})
	})
	if err != nil {
		return "", nil, err
	}
	var w strings.Builder
	fmt.Fprintf(&w, "# %s revokes, once this is brought to a node, for ever:\n", config.Member)
	for _, words := range what {
		fmt.Fprintf(&w, "#   %s\n", words)
	}
	fmt.Fprintf(&w, "# From any machine: chorus revoke --presigned FILE --peer ADDRESS\n")
	for _, addr := range a.addresses(ctx, config) {
		fmt.Fprintf(&w, "#   %s\n", addr)
	}
	b, err = page.encode()
	return w.String(), b, err
}

// revokePresigned brings a sheet to a node: to one that is named, or to the home's own.
func (a *app) revokePresigned(ctx context.Context, w withdrawal) (err error) {
	if w.presigned == "-" {
		fmt.Fprintf(a.err, "Type the lines from %s on, or scan the code, and end with Ctrl-D:\n", paperPresigned)
	}
	text, err := readText(ctx, w.presigned)
	if err != nil {
		return err
	}
	b, err := readPaper(paperPresigned, text)
	if err != nil {
		return err
	}
	page, err := parseSheet(b)
	if err != nil {
		return err
	}
	if len(w.peers) == 0 {
		return a.presentByNode(ctx, w, page)
	}
	began := time.Now()
	e, err := node.NewErrand(ctx, node.ErrandConfig{
		Key: page.carrier, Charter: page.notices[0].Header().Charter, Peers: w.peers, Within: reachWithin, Log: a.logger(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	a.say("reached %s after %v, for %s", e.Peer(), time.Since(began).Round(time.Millisecond), e.Member())
	began = time.Now()
	sending, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	if err := e.Deliver(sending, page.notices...); err != nil {
		return err
	}
	return a.delivered(ctx, e, page.ids(), time.Since(began), w.wait)
}

func (s sheet) ids() (ids []cid.Cid) {
	for _, n := range s.notices {
		ids = append(ids, n.CID)
	}
	return ids
}

func (a *app) presentByNode(ctx context.Context, w withdrawal, page sheet) error {
	return a.control(ctx, func(k node.Control) error {
		sending, cancel := context.WithTimeout(ctx, reachWithin)
		defer cancel()
		for _, n := range page.notices {
			if _, err := k.Present(sending, n.Envelope); err != nil {
				return err
			}
			a.say("revoked: %s", n.CID)
		}
		last := page.notices[len(page.notices)-1].CID
		var found node.Compliance
		if w.wait > 0 {
			found = a.awaitCompliance(ctx, func(ctx context.Context) (node.Compliance, error) { return k.Compliance(ctx, last) }, w.wait)
		}
		return a.result(revoked{last.String(), nil, found}, func() {})
	})
}

func (a *app) recoveryImport() *cobra.Command {
	var check bool
	var out, member string
	var peers []string
	c := &cobra.Command{
		Use:   "import (FILE | -)",
		Short: "Make a key file of a recovery key that was kept on paper",
		Long: `Reads what "chorus recovery export --key" printed, as it is typed or scanned, and writes the key's file. A slip is found in the
line where it was made. It needs no data folder. With --check nothing is written: it says whether the paper is that of this
data folder's recovery key.`,
		Example: `  chorus recovery import - --out recovery.key
  chorus recovery import - --check`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			if given[0] == "-" {
				fmt.Fprintf(a.err, "Type the lines from %s on, or scan the code, and end with Ctrl-D:\n", paperKey)
			}
			text, err := readText(c.Context(), given[0])
			if err != nil {
				return err
			}
			seed, err := readPaper(paperKey, text)
			if err != nil {
				return err
			}
			if len(seed) != ed25519.SeedSize {
				return fmt.Errorf("%w: %d bytes, expected a key of %d", errPaper, len(seed), ed25519.SeedSize)
			}
			private := ed25519.NewKeyFromSeed(seed)
			if check {
				return a.checkRecovery(c.Context(), notice.PublicKeyOf(private))
			}
			info := node.KeyInfo{Use: "recovery", Member: member, Peers: peers}
			if at, err := a.keyInfo(c.Context(), "recovery", peers); err == nil {
				info = at
			} else if !errors.Is(err, node.ErrNoHome) {
				return err
			}
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return errors.Join(fmt.Errorf("%s is there already: a key is never overwritten", out), err)
			}
			f := node.KeyFileOf(private, info)
			if err := f.Write(out); err != nil {
				return err
			}
			return a.result(map[string]any{"file": out, "key": f.Key}, func() {
				a.say("%s holds the recovery key %s", out, f.Key)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&check, "check", false, "only say whether the paper is that of this data folder's recovery key")
	f.StringVar(&out, "out", "recovery.key", "where to write it")
	f.StringVar(&member, "member", "", "whose it is, for the key's file to say")
	f.Var((*peerList)(&peers), "peer", "address of a node, for the key's file to name")
	return c
}

// checkRecovery compares what was typed with what the charter, or before there is one the data folder, has.
func (a *app) checkRecovery(ctx context.Context, typed notice.PublicKey) error {
	config, err := a.node().Config()
	if err != nil {
		return err
	}
	var want notice.PublicKey
	if s, _, err := a.status(ctx); err == nil {
		for _, k := range s.Keys {
			if k.Role == ledger.RoleRecovery {
				want = k.Key
			}
		}
		if want.IsZero() {
			return fmt.Errorf("the charter names no recovery key of %s", config.Member)
		}
	} else if !errors.Is(err, node.ErrNoCharter) {
		return err
	} else if f, err := node.ReadKeyFile(a.node().RecoveryKeyPath()); err == nil {
		want = f.Key
	} else {
		return err
	}
	if typed != want {
		return fmt.Errorf("the paper is that of %s, and the recovery key of %s is %s", typed, config.Member, want)
	}
	a.say("the paper is that of the recovery key of %s: %s can leave this machine", config.Member, a.node().RecoveryKeyPath())
	return nil
}
