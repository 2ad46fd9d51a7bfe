package ledger

var authorityPictures = []struct{ name, text string }{
	{"every key of the charter has its seat", `
		alpha: X
		seat alpha alpha publishing, alpha.node alpha node, alpha.rec alpha recovery, alpha.rev alpha revoker, mallory none`},

	// Who may revoke.
	{"a revoker withdraws an offer, also before that is known", `
		alpha: X -> [X]
		alpha.rev: r=!X
		at 2h X revoked
		by X r`},
	{"a recovery key withdraws an offer", `
		alpha: X -> [X]
		alpha.rec: !X
		at 2h X revoked`},
	{"a revoker of another member withdraws nothing", `
		alpha: X -> [X]
		beta.rev: !X -> !*<alpha:9 -> !&alpha
		beta.rec: a=!X -> b=!*<alpha:9 -> c=!&alpha
		at 4h X active
		seat alpha alpha publishing`},
	{"a revoker's revocation counts across gaps in its feed and the offer's", `
		alpha: (A) -> X
		alpha.rev: (a=!X) -> b=!X
		at 2h X revoked
		by X b`},
	{"a revocation of all from another feed reaches as far as it says", `
		alpha: X -> Y -> [X,Y] -> Z -> [X,Y,Z]
		alpha.rev: !*<alpha:1
		alpha.rec: r=!*<alpha:3
		at 6h X revoked, Y revoked, Z active
		by Y r`},
	{"a revocation of all in a feed without offers reaches nothing by itself", `
		alpha: X -> [X]
		alpha.rec: !*
		at 2h X active`},
	{"a detached revocation counts and leaves no trace in the feed", `
		alpha: X -> Y -> [X,Y]
		alpha.rec: r=%!X
		at 3h X revoked, Y active
		by X r
		heads alpha 3`},
	{"a publishing key does not reach into the feed of the key that replaced it", `
		alpha.rec: alpha~d
		d: Y -> m=[Y]
		alpha: X -> [X] -> a=!Y -> b=!*<d:9 -> c=!&d -> !&alpha.node
		at 4h X revoked, Y active
		seat d alpha publishing, alpha none, alpha.node alpha node`},

	// Votes.
	{"a quorum of the stewards withdraws an offer", `
		alpha: X -> [X]
		beta: a=alpha!X
		gamma: b=alpha!X+1h
		at 2h X revoked
		by X a`},
	{"one steward of a quorum of two withdraws nothing", `
		alpha: X -> [X]
		beta: alpha!X -> a=alpha!X
		beta.rev: b=alpha!X
		at 2h X active`},
	{"a vote counts for every steward whose key it comes to be", `
		gamma: X -> [X]
		alpha: gamma!X
		beta.rec: beta~alpha
		at 2h X revoked`},
	{"votes against different offers do not add up", `
		alpha: X -> Y -> [X,Y]
		beta: alpha!X
		gamma: alpha!Y
		at 3h X active, Y active`},
	{"votes that name another member do not count", `
		alpha: X -> [X]
		beta: gamma!X
		gamma: beta!X
		at 2h X active`},
	{"votes against all reach as far as a quorum of them does", `
		alpha: X -> Y -> [X,Y] -> Z -> [X,Y,Z]
		beta: alpha!*<alpha:1
		gamma: alpha!*<alpha:9
		at 5h X revoked, Y active, Z active`},
	{"votes against a key withdraw it and what it offered", `
		alpha: X -> [X]
		beta: alpha!&alpha -> alpha!&alpha.node
		gamma: b=alpha!&alpha -> c=alpha!&alpha.node
		at 2h X revoked
		seat alpha none, alpha.node none, alpha.rev alpha revoker`},
	{"votes against a recovery key do not count", `
		beta: alpha!&alpha.rec
		gamma: b=alpha!&alpha.rec
		seat alpha.rec alpha recovery`},
	{"a vote counts by the stewards of any version", `
		alpha: X -> [X]
		beta: b=alpha!X
		gamma: c=alpha!X
		charter c2 after c1 by alpha,beta,gamma: -gamma
		at 2h X revoked`},
	{"a vote in a revoker's feed does not count", `
		alpha: X -> [X]
		beta: alpha!X
		gamma.rev: c=alpha!X
		at 2h X active`},

	// Keys.
	{"a publishing key that withdraws itself ends its offers", `
		alpha: X -> [X] -> r=!&alpha
		at 3h X revoked
		by X r
		seat alpha none`},
	{"a revoked revoker's revocations stand", `
		alpha: X -> [X]
		alpha.rev: !X
		alpha.rec: !&alpha.rev
		at 2h X revoked
		seat alpha.rev none`},
	{"a revoked node key has no seat", `
		alpha: X -> [X]
		alpha.rev: !&alpha.node
		at 2h X active
		seat alpha.node none`},

	// Rotations.
	{"a rotation moves the member to the new key and withdraws what the old one offered", `
		alpha: X -> [X]
		alpha.rec: r=alpha~d
		d: Y -> m=[Y]
		at 2h X revoked, Y active
		by X r
		seat alpha none, d alpha publishing`},
	{"rotations follow each other", `
		alpha.rec: alpha~d -> d~e -> alpha.node~g
		d: X -> [X]
		e: Y -> m=[Y]
		at 2h X revoked, Y active
		seat d none, e alpha publishing, alpha.node none, g alpha node`},
	{"of two rotations of one key the earlier counts", `
		alpha.rec: alpha~d -> alpha~e
		d: X -> [X]
		e: Y -> m=[Y]
		at 2h X active, Y left
		seat d alpha publishing, e none`},
	{"a fork of the recovery key's feed suspends", `
		alpha.rec: alpha~d
		alpha.rec: alpha~e
		d: X -> [X]
		e: Y -> m=[Y]
		beta: Z -> n=[Z]
		at 2h Z active
		heads alpha.rec 1, alpha.rec 1, alpha.rec 1, d 2, e 2, beta 2`},
	{"a rotation by another member's recovery key is void", `
		alpha: X -> [X]
		beta.rec: alpha~d
		at 2h X active
		seat alpha alpha publishing, d none`},
	{"rotations in a circle leave no key", `
		alpha.rec: alpha~d -> d~alpha
		seat alpha none, d none`},
	{"a fork of the old key's feed no longer suspends after a rotation", `
		alpha: X
		alpha: Z
		alpha.rec: alpha~d
		d: Y -> m=[Y]
		at 2h X revoked, Y active`},

	// Delegations.
	{"a delegate renews", `
		alpha: X -> >d:renew
		d: [X]
		at 1h X active
		until X 24h
		seat d alpha delegate`},
	{"a delegate that may revoke does not renew", `
		alpha: X -> >d:revoke
		d: m=[X]
		at 1h X lapsed`},
	{"a delegate revokes what it was lent", `
		alpha: X -> Y -> >d:revoke[X] -> [X,Y]
		d: r=!X -> !Y
		at 4h X revoked, Y active`},
	{"a delegate's revocation counts only if it was signed before the delegation ends", `
		alpha: X -> Y -> >d:revoke[]5h -> [X,Y]
		d: !X+6h -> !Y+9h
		at 4h X revoked, Y active`},
	{"a delegate renews what it was lent and until it was lent it", `
		alpha: X -> Y -> >d:renew[X]10h
		d: [X,Y]
		at 11h59m X active, Y lapsed
		at 12h X lapsed
		until X 12h, Y none`},
	{"a lease that a delegate signed too late does not count", `
		alpha: X -> >d:renew[]2h
		d: [X]+3h
		at 3h X lapsed`},
	{"of two leases the one that ends later counts", `
		alpha: X -> >d:renew -> [X]
		d: m=[X]30h
		at 29h X active
		until X 30h`},
	{"an owner that omits an offer ends its own lease and not its delegate's", `
		alpha: X -> >d:renew -> [X] -> []
		d: m=[X]
		at 4h X active`},
	{"a revoked delegate's leases are void and its revocations stand", `
		alpha: X -> Y -> >d:renew,revoke -> !&d
		d: m=[X,Y] -> !X
		at 4h X revoked, Y lapsed
		seat d none`},
	{"a delegation whose feed has a gap before it does not count for using", `
		alpha: X -> (A) -> >d:renew,revoke
		d: m=[X]
		at 4h X lapsed
		seat d none`},
	{"a delegation by a key that was rotated away counts for revoking its offers only", `
		alpha: X -> >d:renew,revoke
		alpha.rec: alpha~e
		e: Y
		d: m=[Y] -> !Y
		at 2h X revoked, Y lapsed`},
	{"a recovery key delegates", `
		alpha: X
		alpha.rec: >d:renew,revoke
		d: [X] -> !X
		at 2h X revoked`},
	{"a delegate may serve two members", `
		alpha: X -> >d:renew
		beta: Y -> b=>d:renew
		d: [X,Y]
		at 2h X active, Y active
		seat d alpha delegate`},
	{"a delegate's fork suspends who delegated", `
		alpha: X -> >d:renew -> [X]
		beta: Y -> b=[Y]
		d: m=[X]
		d: n=[]
		at 4h X suspended, Y active`},
	{"a fork of a node key's successor or a revoker suspends", `
		alpha: X -> [X]
		alpha.rev: a=!&alpha.node
		alpha.rev: b=%!&d -> c=!&d
		at 2h X suspended`},
	{"a delegate does not offer, delegate or revoke everything", `
		alpha: X -> >d:renew,revoke -> [X]
		d: !* -> >e:renew
		d: a=!&alpha
		at 4h X active
		seat alpha alpha publishing, e none
		heads alpha 3`},

	// Charters.
	{"a version that its stewards signed holds", `
		charter c2 after c1 by alpha,beta: 2/day
		charter c3 after c2 by alpha,gamma: 3/day
		charter c3
		charters c1, c2, c3
		proposals `},
	{"a member that a version drops has left, and comes back with another", `
		gamma: X -> [X]
		beta: Y -> b=[Y]
		charter c2 after c1 by alpha,beta: -gamma
		at 2h X left, Y active
		seat gamma none, gamma.node none`},
	{"what was revoked does not come back with a version", `
		alpha: X -> [X]
		alpha.rev: !X
		charter c2 after c1 by alpha,beta: alpha.rev=d
		charter c3 after c2 by alpha,beta: alpha.rev=e
		at 2h X revoked
		seat alpha.rev none, e alpha revoker, d none`},
	{"a version that replaces a key leaves the old one's offers behind", `
		alpha: X -> [X]
		d: Y -> m=[Y]
		charter c2 after c1 by alpha,beta,d: alpha=d
		at 2h X left, Y active
		seat alpha none, d alpha publishing`},
	{"two versions that follow one are a fork: what is on both stays", `
		alpha: X -> [X]
		gamma: Y -> m=[Y]
		charter c2 after c1 by alpha,beta: -gamma
		charter d2 after c1 by alpha,gamma: 7/day
		charter d3 after d2 by alpha,gamma: 8/day
		charter c1
		charters c1, c2, d2, d3
		at 2h X active, Y left
		proposals `},
	{"a version that lacks signatures is a proposal", `
		charter c2 after c1 by alpha: 2/day
		charter c1
		proposals c2`},
	{"signatures of a proposal add up", `
		charter c2 after c1 by alpha: 2/day
		charter other after c1 by mallory: 3/day
		charter c1
		proposals c2`},
	{"of each steward the proposal that was drawn up last is kept", `
		charter p1 after c1 by alpha: 2/day
		alpha: X
		charter p2 after c1 by alpha: 3/day
		beta: Y
		charter p3 after c1 by beta: 4/day
		proposals p2, p3`},
	{"proposals end when a version follows", `
		charter p1 after c1 by gamma: 2/day
		charter c2 after c1 by alpha,beta: 3/day
		charter c2
		proposals `},

	// Offers per day.
	{"offers beyond those of a day are too many", `
		alpha: X -> Y -> Z -> W=W+30h -> [X,Y,Z,W]
		charter c2 after c1 by alpha,beta: 2/day
		at 5h X active, Y active, Z excess, W active`},
	{"a revoked offer counts for its day, and too many that are revoked are revoked", `
		alpha: X -> Y -> Z -> [X,Y,Z] -> !X
		charter c2 after c1 by alpha,beta: 1/day
		at 5h X revoked, Y excess, Z excess`},
}
