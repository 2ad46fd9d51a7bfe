// Package spec specifies how consent cannot be missed, and checks the specification by looking at every state that
// three nodes can come to. It is a model of the design, small enough to be read beside it, and not the code that
// runs: it imports nothing of the project. Begin with the rules (rules.go), then what can happen (actions.go) and
// what must hold in spite of it (invariants.go); state.go has the words, and explore.go the search, which knows
// nothing of consent.
//
// # The world
//
// One owner with an offer that every node has; the owner's node, A and B; the owner's publishing key and a revoker
// key, each with a feed. Whatever is signed can come to any node at any time, in any order, late or never: that
// covers loss, delay and reordering, and a dishonest member who passes on what suits him. Honest nodes can besides
// exchange what either lacks, as far as their heads tell, and a crash ends either way of learning at any notice.
// A lease is signed by rote: it lists the offer even when its signer knows that it is revoked. What the design
// promises must come from those who use the offer, and from the heads that the lease names.
//
// Times are relative to now, so time has no end. A right clock may give any reading within δ of the true time, another
// one at each look. Generating a token is no step but a decision that can be asked for in every state.
//
// # The invariants
//
//   - I1 no honest node generates with an expert after it accepted its revocation.
//   - I2 nor after its lease ended + δ, in true time if its clock is right, else after its clock has said so once. A
//     node that hears nothing more stops within the ceiling + 2δ. And from when the owner's node accepted the
//     revocation, every node whose clock is right stops within the ceiling + 2δ, whatever is withheld from it.
//   - I3 from every state, honest nodes that exchange until none learns anything agree whether the offer may be used.
//   - I4 who durably accepted the revocation does not generate after any crash or restore either. The exception is
//     one who lost it with its disk and then reconciled with a node that never had it, or that withholds it: only the
//     lease's end stops that one. One reconciliation is as good as whom it is with.
//   - I5 who can prove an equivocation does not generate, and nor does who exchanged with him.
//   - I6 nothing acknowledged is lost by a crash.
//   - I7 an honest owner equivocates only if his node was restored from a backup, reconciled since, and all that it
//     reconciled with lacked the newest notice of its feed.
//
// # The bounds
//
// δ is 1 tick, the ceiling 2, an overlong lease lasts 4, a clock is set back by 3. Places in a feed, notices, crashes
// and other faults are bounded by [Scope]; [Scopes] lists those that are looked at in whole. A clock set back and a
// restore do not meet in one scope.
//
// Left out, besides: charters and their forks, rotation, delegates (they stand as the revoker does: a key whose feed
// leases name), votes, detached revocations (no place in a feed can be missing for them), a fork of the revoker's
// feed (the rule for the publishing feed is the one for all), second offers and leases that leave an offer out, the
// excess over a day's offers, blobs, and the one token that may be under way. An honest owner's clock is right when he
// signs; a dishonest one's lease may begin and end when it likes. A node that lost its high-water mark with its disk
// and whose clock is set back has nothing to tell it so: no rule here helps that one.
//
// # The safeguards
//
// Each rule is a [Safeguard] that can be switched off, and each is needed: without any one of them a scope has a state
// that breaks an invariant. The test says which.
package spec

// Scopes returns what is looked at, each to the last state: a few seconds' worth, or if whole a few minutes'.
func Scopes(whole bool) []Scope {
	if whole {
		return []Scope{
			{Name: "honest owner", Publishing: 3, Revoker: 2, Notices: 4, Crashes: 1},
			{Name: "clock set back", Publishing: 2, Revoker: 1, Notices: 3, Crashes: 1, SetBack: true},
			{Name: "restore", Publishing: 2, Revoker: 1, Notices: 4, Restore: true},
			{Name: "restore, longer feed", Publishing: 3, Notices: 4, Restore: true},
			{Name: "dishonest owner", Publishing: 2, Revoker: 1, Notices: 3, Crashes: 1, Equivocates: true},
			{Name: "dishonest owner, longer feed", Publishing: 3, Notices: 3, Crashes: 1, Equivocates: true},
			{Name: "dishonest owner, restore", Publishing: 2, Notices: 3, Equivocates: true, Restore: true},
		}
	}
	return []Scope{
		{Name: "honest owner", Publishing: 2, Revoker: 1, Notices: 3, Crashes: 1},
		{Name: "revoker's gap", Publishing: 1, Revoker: 2, Notices: 3},
		{Name: "clock set back", Publishing: 1, Revoker: 1, Notices: 2, Crashes: 1, SetBack: true},
		{Name: "restore", Publishing: 2, Notices: 3, Restore: true},
		{Name: "dishonest owner", Publishing: 2, Notices: 3, Equivocates: true},
	}
}
