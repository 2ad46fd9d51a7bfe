package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"
	"chorus/p2p"
)

// A Verdict says how bad a finding is.
type Verdict string

// The verdicts, from good to bad.
const (
	Fine    Verdict = "fine"
	Notable Verdict = "notable" // works, and somebody should look
	Wrong   Verdict = "wrong"   // something that the node is for does not work
)

// A Finding is the outcome of one check, in words for people.
type Finding struct {
	Check   string  `json:"check"` // a name that stays
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`         // a sentence
	Do      string  `json:"do,omitempty"` // what to do about it; empty if nothing
}

// An examination is what the checks look at.
type examination struct {
	context.Context
	home   Home
	ledger *ledger.Ledger
	status Status
	node   *Node // nil if none runs
	at     time.Time
}

// A check is one thing that can be wrong with a node. It returns findings with their check left out, and none if
// it has nothing to say.
type check struct {
	name string
	look func(*examination) []Finding
	slow bool // it waits for the network or reads the whole ledger, or the status says it by itself: for the doctor alone
}

// checks is all that status and doctor know of, in the order in which to mend it.
var checks = []check{
	{name: "clock", look: checkClock},
	{name: "clocks", look: checkClocks},
	{name: "ledger", look: checkLedger, slow: true},
	{name: "feed", look: checkFeed},
	{name: "disk", look: checkDisk},
	{name: "keys", look: checkKeys},
	{name: "recovery", look: checkRecovery},
	{name: "charter", look: checkCharter},
	{name: "members", look: checkMembers, slow: true},
	{name: "reconciled", look: checkReconciled},
	{name: "lease", look: checkLease},
	{name: "mixture", look: checkMixture, slow: true},
	{name: "experts", look: checkExperts},
	{name: "exports", look: checkExports},
}

// examine has the checks look, the slow ones too if all is set.
func (x *examination) examine(all bool) []Finding {
	findings := []Finding{}
	for _, c := range checks {
		if c.slow && !all {
			continue
		}
		for _, f := range c.look(x) {
			f.Check = c.name
			findings = append(findings, f)
		}
	}
	return findings
}

// Doctor implements [Control].
func (n *Node) Doctor(ctx context.Context) ([]Finding, error) {
	s, err := n.Status(ctx)
	if err != nil {
		return nil, err
	}
	x := &examination{ctx, n.home, n.ledger, s, n, now()}
	return x.examine(true), ctx.Err()
}

// OfflineDoctor is what can be found out while no node runs.
func OfflineDoctor(ctx context.Context, home Home, l *ledger.Ledger, member string) []Finding {
	s := OfflineStatus(home, member, l)
	x := &examination{ctx, home, l, s, nil, now()}
	return x.examine(true)
}

func fine(format string, args ...any) []Finding {
	return []Finding{{Verdict: Fine, Text: fmt.Sprintf(format, args...)}}
}

func checkClock(x *examination) []Finding {
	why, behind := strings.CutPrefix(x.status.Why, steward.ClockUntrusted)
	if x.node == nil {
		if err := x.ledger.Observe(x.at); err != nil {
			why, behind = err.Error(), true
		}
	}
	if behind {
		return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("The clock cannot be trusted, so no lease can be judged: %s.", why),
			Do: "Set this machine's clock right, and keep it right with NTP."}}
	}
	return fine("The clock is not behind any time that this node has seen.")
}

// How far two clocks are apart from which on something is said: as far as one alone may be from the true time, where a
// lease of the one begins to count late for the other, and a part of it that says that a clock is not kept right.
const (
	clockTolerance = 2 * time.Minute
	clockNotable   = 10 * time.Second
)

// checkClocks holds this node's clock against those of the members whom it has heard. If most of them say the same of it,
// it is this one that is wrong.
func checkClocks(x *examination) (found []Finding) {
	var heard, behind, ahead int
	for _, m := range x.status.Members {
		if m.Synced.IsZero() {
			continue
		}
		heard++
		off := time.Duration(m.Ahead * float64(time.Second)).Round(time.Second)
		if off.Abs() < clockNotable {
			continue
		}
		way := "behind"
		if off > 0 {
			way = "ahead of"
			behind++
		} else {
			ahead++
		}
		f := Finding{Verdict: Notable, Text: fmt.Sprintf("The clock of %s is %v %s this one.", m.Name, off.Abs(), way), Do: fmt.Sprintf("Tell %s, unless others say the same of yours.", m.Name)}
		if off.Abs() >= clockTolerance {
			f.Verdict = Wrong
		}
		found = append(found, f)
	}
	if most := max(behind, ahead); most > 1 && 2*most > heard {
		return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("This machine's clock differs from those of %d of %d members. %s", most, heard, found[0].Text), Do: "Set it right, and keep it right with NTP."}}
	}
	if heard > 0 && len(found) == 0 {
		return fine("This clock agrees with those of all other members that this node has heard: %d.", heard)
	}
	return found
}

func checkLedger(x *examination) []Finding {
	count := 0
	for _, err := range x.ledger.Notices() {
		if err != nil {
			return []Finding{damaged(x, err)}
		}
		count++
	}
	_, events := x.ledger.Events()
	_, verdicts := x.ledger.Verdicts()
	_, usage := x.ledger.Usage()
	if err := errors.Join(events, verdicts, usage); err != nil {
		return []Finding{damaged(x, err)}
	}
	return fine("The ledger is sound: %d notices, each signed as it must be.", count)
}

func damaged(x *examination, err error) Finding {
	return Finding{Verdict: Wrong, Text: fmt.Sprintf("The ledger cannot be read: %v.", err),
		Do: fmt.Sprintf("Stop the node, put %s aside and start it again: the other members have all notices. Its own account of usage is lost.", x.home.ledger())}
}

func checkFeed(x *examination) []Finding {
	member, ok := x.ledger.Charter().Named(x.status.Member)
	if !ok {
		return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("%s is not on the charter any more, so that no other node lets this one in or uses what it offers.", x.status.Member), Do: "Ask a steward."}}
	}
	key := speaks(x.ledger, member)
	heads := slices.DeleteFunc(x.ledger.Heads(), func(h notice.Head) bool { return h.Key != key })
	if len(heads) > 1 {
		return []Finding{{Verdict: Wrong, Text: "This member's key has signed two notices with one number, so its experts are suspended everywhere, for good.",
			Do: "Find out who else has publishing.key, and how. Then name a new one: `chorus key rotate --recovery FILE`."}}
	}
	for _, gap := range x.ledger.Missing() {
		if gap.Key == key {
			return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("Notices %d to %d of this member's own feed are missing here, so this node signs nothing.", gap.First, gap.Last),
				Do: "Let it reach the members who have them; who signed them, if it was not this node, has publishing.key."}}
		}
	}
	return nil
}

// removed reports whether this member is off the charter, which checkFeed says.
func (x *examination) removed() bool {
	_, ok := x.ledger.Charter().Named(x.status.Member)
	return !ok
}

// spareBytes is what a disk should have beside what is still to be fetched.
const spareBytes = 1 << 30

func checkDisk(x *examination) []Finding {
	free, err := freeSpace(string(x.home))
	if err != nil {
		return []Finding{{Verdict: Notable, Text: fmt.Sprintf("How much room the disk has cannot be found out: %v.", err)}}
	}
	need := int64(0)
	for _, e := range x.status.Experts {
		if e.State == ledger.Active && !e.Held && e.Refusal == "" {
			need += e.Size
		}
	}
	const gb = 1e9
	switch {
	case free < need:
		return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("The disk of %s has %.1f GB left, and the experts to fetch need %.1f GB.", x.home, float64(free)/gb, float64(need)/gb), Do: "Free some."}}
	case free < need+spareBytes:
		return []Finding{{Verdict: Notable, Text: fmt.Sprintf("The disk of %s has %.1f GB left: a revocation or a lease that cannot be written is one that this node may lose.", x.home, float64(free)/gb), Do: "Free some."}}
	}
	return fine("The disk has %.1f GB left.", float64(free)/gb)
}

func checkKeys(x *examination) (found []Finding) {
	if runtime.GOOS == "windows" {
		return nil // which says in other ways who may read a file
	}
	unreadable := func(err error) {
		found = append(found, Finding{Verdict: Wrong, Text: fmt.Sprintf("A key cannot be read: %v.", err), Do: "Put it back from a backup."})
	}
	paths, err := x.home.KeyFiles()
	if err != nil {
		unreadable(err)
	}
	if path := x.home.NodeKeyPath(); !slices.Contains(paths, path) {
		paths = append(paths, path)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil {
			unreadable(err)
		} else if info.Mode().Perm()&0o077 != 0 {
			found = append(found, Finding{Verdict: Wrong, Text: fmt.Sprintf("Other users of this machine may read or change %s.", path), Do: fmt.Sprintf("chmod 600 %s", path)})
		}
	}
	if len(found) == 0 {
		found = fine("Nobody else on this machine can read the keys.")
	}
	if x.removed() {
		return found // it has no keys, nor can it name new ones
	}
	if f, err := ReadKeyFile(x.home.path(nodeKey)); err == nil {
		member, role, ok := x.ledger.Seat(f.Key)
		switch {
		case !ok || member != x.status.Member || role != ledger.RoleNode:
			found = append(found, Finding{Verdict: Wrong, Text: "The node key here is not this member's any more, so that no other node lets this one in.",
				Do: "Name a new one: `chorus key rotate --node --recovery FILE`."})
		case x.node != nil && x.node.self != f.Key:
			found = append(found, Finding{Verdict: Wrong, Text: "The node runs with a key that was replaced since it started, so that no other node lets it in.",
				Do: "Stop it, and start it again with `chorus up`."})
		}
	}
	if f, err := ReadKeyFile(x.home.path(publishingKey)); err == nil {
		if member, role, ok := x.ledger.Seat(f.Key); !ok || member != x.status.Member || role != ledger.RolePublishing {
			found = append(found, Finding{Verdict: Wrong, Text: "The publishing key here is not this member's any more, so that nothing it signs counts.",
				Do: "Name a new one: `chorus key rotate --recovery FILE`."})
		} else if f.Protected() && x.node != nil {
			if _, err := x.node.leaseKey(); err != nil {
				f := Finding{Verdict: Notable, Text: "The publishing key is locked, and no renewal key is here that may renew leases instead.",
					Do: "Start the node with its passphrase, or make one and lend it that power: `chorus key new renewal`."}
				if _, err := os.Stat(x.home.RenewalKeyPath()); err == nil {
					f.Text = "The publishing key is locked, and the renewal key here has not been lent the power to renew leases by it."
					f.Do = "Start the node with its passphrase, or lend that power: `chorus key delegate renewal --renew --until DATE`."
				}
				found = append(found, f)
			}
		}
	}
	return found
}

func checkRecovery(x *examination) []Finding {
	path := x.home.path(recoveryKey)
	if _, err := os.Stat(path); err == nil {
		return []Finding{{Verdict: Notable, Text: "The recovery key is still in the data folder, so that whoever takes the one takes the other.",
			Do: fmt.Sprintf("Move %s to a place apart, such as a stick in a safe: the node does not need it.", path)}}
	}
	if m, ok := x.ledger.Charter().Named(x.status.Member); ok && m.Recovery.IsZero() {
		return []Finding{{Verdict: Notable, Text: "The charter names no recovery key of this member: if publishing.key is lost, so is the member's voice.",
			Do: "Keep a copy of publishing.key apart, or ask the stewards for a charter with a recovery key."}}
	}
	return fine("The recovery key is kept apart.")
}

func checkMembers(x *examination) (found []Finding) {
	if x.node == nil || x.removed() {
		return nil
	}
	for _, addr := range x.node.host.Strangers(x.node.config.Peers) {
		found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s under peers in %s is not the node of a member: that member has left, or has another node key, or it belongs to another consortium.", addr, x.home.config()),
			Do: "Put the address there that a member's `chorus up` prints now, or take it out."})
	}
	reached := 0
	for _, m := range x.ledger.Charter().Members {
		if m.Name == x.status.Member {
			continue
		}
		now := seat(x.ledger, m).Node
		connected, attempts := x.node.host.Reach(x, now)
		switch {
		case now.IsZero():
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("The node key of %s was revoked, so that no node lets it in.", m.Name),
				Do: fmt.Sprintf("%s must name a new one: `chorus key rotate --node`.", m.Name)})
		case connected && !slices.ContainsFunc(x.status.Members, func(s MemberStatus) bool { return s.Name == m.Name && !s.Synced.IsZero() }):
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s is reached, and has exchanged nothing with this node since it started.", m.Name),
				Do: fmt.Sprintf("If it stays so, the node of %s does not let this one in: ask a steward whether this member is still on the charter, with this node's key.", m.Name)})
		case connected:
			reached++
		case len(attempts) == 0:
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("No address of %s is known.", m.Name),
				Do: fmt.Sprintf("Ask %s for what its `chorus up` prints, and add that under peers in %s.", m.Name, x.home.config())})
		default:
			for _, a := range attempts {
				text, do := diagnose(m.Name, a)
				found = append(found, Finding{Verdict: Notable, Text: text, Do: do})
			}
		}
	}
	if len(found) == 0 && reached > 0 {
		return fine("All other members are connected: %d.", reached)
	}
	return found
}

// diagnose says why a member was not reached at an address, and what to do.
func diagnose(member string, a p2p.Attempt) (text, do string) {
	cause := a.Err.Error()
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(cause, w) })
	}
	switch {
	case has("refused"):
		return fmt.Sprintf("%s is not reached at %s: nothing listens there.", member, a.Address),
			fmt.Sprintf("Ask %s whether its node is up, and whether its router passes that port on to it.", member)
	case has("deadline", "timeout", "timed out"):
		return fmt.Sprintf("%s is not reached at %s: no answer.", member, a.Address),
			fmt.Sprintf("%s, or whoever runs the firewalls on the way, must open that port to this node.", member)
	case has("unreachable", "no route"):
		return fmt.Sprintf("%s is not reached at %s: there is no way to that network from here.", member, a.Address),
			fmt.Sprintf("It may be an address inside %s: ask for one that can be reached from outside.", member)
	case has("peer id mismatch"):
		return fmt.Sprintf("%s is not reached at %s: another node is there.", member, a.Address),
			fmt.Sprintf("Ask %s for its address now.", member)
	}
	return fmt.Sprintf("%s is not reached at %s: %s.", member, a.Address, cause), fmt.Sprintf("Ask %s whether its node is up.", member)
}

func checkReconciled(x *examination) []Finding {
	if x.node == nil || x.node.single() || x.removed() {
		return nil
	}
	select {
	case <-x.node.host.Reconciled():
		return fine("This node has heard from another member since it started.")
	default:
	}
	do := fmt.Sprintf("Others must be let in here: %s.", strings.Join(x.status.Addresses, ", "))
	if len(x.node.config.Peers) == 0 {
		do = fmt.Sprintf("Name another member's address under peers in %s. %s", x.home.config(), do)
	}
	return []Finding{{Verdict: Wrong, Text: "No other member could be reached since the start, so this node serves the anchor alone and signs nothing.", Do: do}}
}

func checkLease(x *examination) []Finding {
	var offers, lapsed int
	var until time.Time
	for _, e := range x.status.Experts {
		if e.Member != x.status.Member || e.State == ledger.Revoked {
			continue
		}
		offers++
		if e.State != ledger.Active {
			lapsed++
		} else if until.IsZero() || e.Until.Before(until) {
			until = e.Until
		}
	}
	length := time.Duration(x.ledger.Charter().LeaseSeconds) * time.Second
	switch {
	case offers == 0, x.removed():
		return nil
	case lapsed > 0:
		return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("%d of this member's %d experts are under no lease, so nobody uses them.", lapsed, offers),
			Do: "Keep the node running and connected, which renews leases; publish an expert again that was never leased."}}
	case until.Sub(x.at) < length/2:
		return []Finding{{Verdict: Notable, Text: fmt.Sprintf("This member's lease ends at %s and has not been renewed at a third of its time.", until.Local().Format(time.DateTime)),
			Do: "Keep the node running and connected."}}
	}
	return fine("This member's lease is in force until %s.", until.Local().Format(time.DateTime))
}

func checkMixture(x *examination) []Finding {
	switch {
	case x.node == nil:
		return nil
	case x.status.Why != "":
		return []Finding{{Verdict: Notable, Text: fmt.Sprintf("The anchor serves alone: %s.", x.status.Why)}}
	}
	inUse := 0
	for _, e := range x.status.Experts {
		if e.InUse {
			inUse++
		}
	}
	return fine("Experts in the mixture, beside the anchor: %d.", inUse)
}

func checkExperts(x *examination) (found []Finding) {
	ended := 0
	for _, e := range x.status.Experts {
		switch {
		case e.State == ledger.Revoked && e.Held && !slices.ContainsFunc(x.status.Experts, func(o Expert) bool { return o.Blob == e.Blob && o.State != ledger.Revoked }):
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s of %s is %s, and its blob still here.", e.Domain, e.Member, e.Words()), Do: "The node deletes it: keep it running."})
		case e.State == ledger.Revoked:
			ended++
		case e.Refusal != "":
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s of %s is refused here: %s.", e.Domain, e.Member, e.Refusal), Do: fmt.Sprintf("Tell %s.", e.Member)})
		case e.State == ledger.Active && !e.Held:
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s of %s may be used and is not here yet.", e.Domain, e.Member), Do: "A member that holds it must be connected."})
		case e.State == ledger.Lapsed && e.Member != x.status.Member: // of its own, checkLease speaks
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s of %s is not used, since it is %s.", e.Domain, e.Member, e.Words()), Do: fmt.Sprintf("%s must run its node, which renews it, and this one must hear of it.", e.Member)})
		case e.State != ledger.Active && e.State != ledger.Lapsed:
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s of %s is not used, since it is %s.", e.Domain, e.Member, e.Words())})
		}
	}
	if ended > 0 {
		found = append(found, fine("Experts that are revoked, and neither used nor kept here: %d.", ended)...)
	}
	return found
}

func checkExports(x *examination) (found []Finding) {
	for _, e := range x.status.Experts {
		for _, dir := range e.Exports {
			if e.State != ledger.Active {
				found = append(found, Finding{Verdict: Wrong, Text: fmt.Sprintf("%s was exported with %s of %s, which may not be used any more: it is %s.", dir, e.Domain, e.Member, e.State),
					Do: fmt.Sprintf("Delete %s.", dir)})
			}
		}
	}
	return found
}
