package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
)

// A withdrawal is how one revocation is to be made.
type withdrawal struct {
	all       bool
	asSteward bool
	reason    string
	wait      time.Duration
	key       string   // file of the key that signs; empty: the home's publishing key
	presigned string   // file of what was signed before, - for stdin; empty: it is signed now
	peers     []string // where to bring it without a node
}

func (a *app) revokeCommand() *cobra.Command {
	var w withdrawal
	c := &cobra.Command{
		Use:   "revoke (EXPERT | KEY | --all | --presigned FILE)",
		Short: "Withdraw an expert for ever",
		Long: `Signs a revocation and sends it to the other members. Every honest node stops using the expert on
receiving it, within one token, and deletes its copy. A revocation is final: to come back, publish
again, which makes a new offer. The command succeeds once another member has the notice too.

An expert is named by its domain, by MEMBER/DOMAIN, or by its offer. With --key it needs no data folder and no node: any
machine will do, and one node that can be reached. The key may be the member's publishing key, a revoker
("chorus key new"), one that powers were lent to ("chorus key delegate"), or the recovery key. --presigned takes what
"chorus recovery export" printed, from a file or as it is typed.

It then shows who has dropped the expert, as their nodes say so, until all that are online have, or --wait is over; with --key, or
--presigned and --peer, who is online cannot be seen, and it waits for all. Whether it waits or not, also after Ctrl-C, the revocation goes its way, and "chorus status" says who is connected.

--as-steward votes for the withdrawal of another member's expert: it counts once a quorum of the stewards of
one version of the charter that has the member has voted, whichever that is: as a revocation is for ever, no later version takes it back.`,
		Example: `  chorus revoke cardiology --reason "patient withdrew consent"
  chorus revoke --all
  chorus revoke --key revoker.key --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3Koo… cardiology
  chorus revoke --presigned - --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3Koo…
  chorus revoke clinic/cardiology --as-steward`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			named := 0
			for _, is := range []bool{len(given) == 1, w.all, w.presigned != ""} {
				if is {
					named++
				}
			}
			switch {
			case named != 1:
				return usageError{errors.New("name one expert or key, --all, or --presigned")}
			case w.asSteward && (w.all || w.presigned != "" || w.key != ""):
				return usageError{errors.New("a steward votes with the data folder's own key, on one expert")}
			case w.presigned != "" && w.key != "":
				return usageError{errors.New("what was signed before needs no key")}
			case len(w.peers) > 0 && w.key == "" && w.presigned == "":
				return usageError{errors.New("--peer goes with --key or --presigned: a node knows where the others are")}
			}
			name := ""
			if len(given) == 1 {
				name = given[0]
			}
			if w.presigned != "" {
				return a.revokePresigned(c.Context(), w)
			}
			if w.key != "" {
				return a.revokeByKey(c.Context(), w, name)
			}
			return a.revokeByNode(c.Context(), w, name)
		},
	}
	f := c.Flags()
	f.BoolVar(&w.all, "all", false, "withdraw everything this member has on offer")
	f.StringVar(&w.reason, "reason", "", "why, for people to read")
	f.DurationVar(&w.wait, "wait", 20*time.Second, "how long to wait for the members to say that they have dropped it")
	f.StringVar(&w.key, "key", "", "file of the key to sign with, on any machine")
	f.Var((*peerList)(&w.peers), "peer", "address of a node to bring it to, as its `chorus up` prints it (repeatable; a key's file may name some)")
	f.StringVar(&w.presigned, "presigned", "", "file of what \"chorus recovery export\" printed, - to type it")
	f.BoolVar(&w.asSteward, "as-steward", false, "vote as a steward on another member's expert")
	return c
}

// revokeByNode has the home's node sign and send it.
func (a *app) revokeByNode(ctx context.Context, w withdrawal, name string) error {
	return a.control(ctx, func(k node.Control) error {
		t := node.Target{All: w.all}
		member := ""
		s, err := k.Status(ctx)
		if err != nil {
			return err
		}
		others := len(s.Members) > 0
		if !w.all {
			t, member, err = target(name, s.Member, s.Experts, w.asSteward)
			if errors.Is(err, errEnded) && !w.asSteward { // an interrupted attempt may have reached nobody
				a.say("%v", err)
			} else if err != nil {
				return err
			}
		}
		began := time.Now()
		var r cid.Cid
		err = a.unlocked(ctx, k, func() error {
			ctx, cancel := context.WithTimeout(ctx, reachWithin)
			defer cancel()
			began = time.Now()
			switch {
			case w.asSteward:
				r, err = k.Declare(ctx, node.Declaration{Revocation: &notice.Revocation{Member: member, Offer: t.Offer, RevokedKey: t.Key, Reason: w.reason}})
			case !t.Key.IsZero():
				r, err = k.Declare(ctx, node.Declaration{Revocation: &notice.Revocation{RevokedKey: t.Key, Reason: w.reason}})
			default:
				r, err = k.Revoke(ctx, t.Offer, w.reason)
			}
			return err
		})
		if err != nil {
			return err
		}
		if w.asSteward {
			return a.sayVote(ctx, k, r, t.Offer)
		}
		a.say("revoked: %s", r)
		if !t.Key.IsZero() && !slices.ContainsFunc(s.Keys, func(k node.SeatedKey) bool { return k.Key == t.Key }) {
			a.say("%s is not a key that %s has now, as far as this node knows: `chorus key show` lists those", t.Key, s.Member)
		}
		if others {
			a.say("another member has the notice too, after %v", time.Since(began).Round(time.Millisecond))
		}
		var found node.Compliance
		if others && w.wait > 0 {
			found = a.awaitCompliance(ctx, func(ctx context.Context) (node.Compliance, error) { return k.Compliance(ctx, r) }, w.wait)
		}
		return a.result(revoked{r.String(), nil, found}, func() {})
	})
}

// sayVote says what came of a steward's vote.
func (a *app) sayVote(ctx context.Context, k node.Control, vote, offer cid.Cid) error {
	s, err := k.Status(ctx)
	if err != nil {
		return err
	}
	carried := false
	for _, e := range s.Experts {
		carried = carried || e.Offer == offer && e.State == ledger.Revoked
	}
	return a.result(map[string]any{"vote": vote, "carried": carried}, func() {
		a.say("your vote is signed, and another member has it: %s", vote)
		if carried {
			a.say("the quorum is reached: the expert is revoked")
		} else {
			a.say("it counts once a quorum of the stewards has voted: the others run the same command")
		}
	})
}

// errand goes to one of peers, or of those that the key's file names.
func (a *app) errand(ctx context.Context, f *node.KeyFile, peers []string) (*node.Errand, error) {
	if len(peers) == 0 {
		peers = f.Peers
	}
	if len(peers) == 0 {
		return nil, withHint(usageError{errors.New("no node's address is known: name one with --peer")},
			"any member's node will do: on its machine, `chorus up` starts it and prints its address")
	}
	key, err := f.Private()
	if err != nil {
		return nil, err
	}
	return node.NewErrand(ctx, node.ErrandConfig{Key: key, Charter: f.Charter, Peers: peers, Within: reachWithin, Log: a.logger()})
}

// revokeByKey brings it to one node, without one of its own.
func (a *app) revokeByKey(ctx context.Context, w withdrawal, name string) (err error) {
	f, err := a.readKey(ctx, w.key)
	if err != nil {
		return err
	}
	began := time.Now()
	e, err := a.errand(ctx, f, w.peers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	a.say("reached %s after %v, with a %s key of %s", e.Peer(), time.Since(began).Round(time.Millisecond), e.Role(), e.Member())
	t := node.Target{All: w.all}
	if !w.all {
		s := node.OfflineStatus("", e.Member(), e.Ledger())
		if t, _, err = target(name, e.Member(), s.Experts, false); err != nil {
			return err
		}
	}
	began = time.Now()
	sending, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	ids, err := e.Revoke(sending, t, w.reason)
	if err != nil {
		return err
	}
	return a.delivered(ctx, e, ids, time.Since(began), w.wait)
}

// delivered says that revocations are with a node, and shows who complies.
func (a *app) delivered(ctx context.Context, e *node.Errand, ids []cid.Cid, took, wait time.Duration) error {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
		a.say("revoked: %s", id)
	}
	a.say("the node has it on its disk, after %v, and passes it on", took.Round(time.Millisecond))
	found, err := e.Compliance(ctx, ids...)
	switch {
	case err != nil && ctx.Err() == nil: // it revoked the very key that asks
		a.say("that node answers this key no more, so who has dropped it is for a member's node to say")
	case wait > 0:
		found = a.awaitCompliance(ctx, func(ctx context.Context) (node.Compliance, error) { return e.Compliance(ctx, ids...) }, wait)
	}
	one := ""
	if len(texts) > 0 {
		one = texts[len(texts)-1]
	}
	return a.result(revoked{one, texts, found}, func() {})
}

// errEnded is returned, beside one of them, where all that a name stands for is revoked.
var errEnded = errors.New("is revoked already")

// target finds what a name on the command line stands for: an offer, a key, or a domain, which a member may stand before.
// Without one it is own's.
func target(name, own string, experts []node.Expert, vote bool) (t node.Target, member string, err error) {
	if strings.HasPrefix(name, "z6Mk") {
		t.Key, err = notice.ParsePublicKey(name)
		if vote {
			err = usageError{errors.New("stewards vote on experts, as MEMBER/DOMAIN")}
		}
		return t, own, err
	}
	if id, err := cid.Decode(name); err == nil {
		for _, e := range experts {
			if e.Offer == id {
				member = e.Member
			}
		}
		if vote && member == "" {
			return t, "", fmt.Errorf("the offer %s is not known here, nor whose it is", id)
		}
		return node.Target{Offer: id}, member, nil
	}
	member, domain, both := strings.Cut(name, "/")
	if !both {
		member, domain = own, name
	}
	if vote && member == own {
		return t, "", usageError{fmt.Errorf("%s is your own: revoke it without --as-steward", name)}
	}
	if !vote && member != own {
		return t, "", withHint(fmt.Errorf("%s is not an expert of %s", name, own), "a steward votes for it with --as-steward")
	}
	var found []node.Expert
	var ended cid.Cid
	for _, e := range experts {
		if e.Member == member && e.Domain == domain {
			if e.State == ledger.Revoked {
				ended = e.Offer
			} else {
				found = append(found, e)
			}
		}
	}
	switch {
	case len(found) == 0 && ended.Defined():
		return node.Target{Offer: ended}, member, fmt.Errorf("%s of %s %w", domain, member, errEnded)
	case len(found) == 0:
		return t, "", withHint(fmt.Errorf("%q is neither an offer, nor a key, nor an expert that %s has on offer", name, member), "`chorus experts` lists them")
	case len(found) > 1:
		hints := make([]string, len(found))
		for i, e := range found {
			hints[i] = fmt.Sprintf("%s, %s", e.Offer, e.Words())
		}
		return t, "", withHint(fmt.Errorf("%s has %d experts %q on offer: name one by its offer, or all", member, len(found), domain), hints...)
	}
	return node.Target{Offer: found[0].Offer}, member, nil
}

// readText reads a file, or stdin for "-", up to a size that no honest one has.
func readText(ctx context.Context, path string) (string, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return "", err
		}
		defer f.Close()
	}
	b, err := typed(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(f, maxPaper+1)) })
	if err == nil && len(b) > maxPaper {
		err = fmt.Errorf("%s: more than %d bytes", path, maxPaper)
	}
	return string(b), err
}

// A revoked is what revoke answers programs.
type revoked struct {
	Revocation  string   `json:"revocation"`
	Revocations []string `json:"revocations,omitempty"` // if there may be several
	node.Compliance
}

// How soon an answer about compliance is asked for again: at first after firstAsk, then later and later. A node has so many
// conversations with an errand every few seconds, and no more.
const (
	firstAsk = 100 * time.Millisecond
	lastAsk  = 2 * time.Second
)

// awaitCompliance shows who has dropped what was revoked, as it becomes known, until all that are online have, the time is up
// or the command is interrupted: the revocation is with another member by then, so that nothing is lost by leaving.
func (a *app) awaitCompliance(ctx context.Context, ask func(context.Context) (node.Compliance, error), wait time.Duration) (found node.Compliance) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	last := ""
	for again := firstAsk; ; again = min(again*3/2, lastAsk) {
		now, err := ask(ctx)
		if err == nil {
			if found = now; found.Withdrawn == 0 {
				a.say("no expert that this node knows of ends by it")
				return found
			}
			words, waiting := complianceWords(found)
			if words != last && !a.json {
				last = words
				a.say("%s", words)
			}
			if !waiting {
				return found
			}
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			if err != nil && !errors.Is(err, ctx.Err()) {
				fmt.Fprintf(a.err, "who else has dropped it could not be asked: %v\n", err)
			}
			return found
		}
	}
}

// complianceWords says who has dropped what was revoked, and whether one that is online has not said so yet.
func complianceWords(c node.Compliance) (words string, waiting bool) {
	dropped := 0
	var missing []string
	for _, m := range c.Members {
		switch {
		case !m.Dropped.IsZero():
			dropped++
		case m.Connected, c.Outside:
			waiting = true
			missing = append(missing, m.Member)
		case m.Parted.IsZero():
			missing = append(missing, m.Member+" (offline)")
		default:
			missing = append(missing, fmt.Sprintf("%s (offline since %s)", m.Member, m.Parted.Local().Format(time.DateTime)))
		}
	}
	words = fmt.Sprintf("%d of %d members have dropped it", dropped, len(c.Members))
	if len(missing) > 0 {
		words += "; waiting for " + list(missing)
		if c.Outside {
			words += ", of whom a key alone cannot see who is online"
		}
		if !c.Until.IsZero() {
			words += "; their lease ends at " + c.Until.Local().Format(time.DateTime)
		}
	}
	for _, x := range c.Exported {
		words += fmt.Sprintf("; %s exported it on %s: ask %s to delete that copy", x.Member, x.Time.Local().Format(time.DateOnly), x.Member)
	}
	return words, waiting
}
