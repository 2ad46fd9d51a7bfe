package ledger

var pictures = []struct{ name, text string }{
	{"an offer without a lease is lapsed", `
		alpha: X
		at 0h X lapsed
		until X none
		heads alpha 1`},
	{"a lease makes an offer active until just before its end", `
		alpha: X -> [X]
		at 1h X active
		at 24h59m59s X active
		at 25h X lapsed
		until X 25h`},
	{"a lease does not count before its time but for the tolerance", `
		alpha: X -> [X]+100h
		at 100h57m59s X lapsed
		at 100h58m X active
		at 124h59m59s X active
		at 125h X lapsed`},
	{"a lease of exactly the ceiling counts", `
		alpha: X -> [X]48h
		at 48h59m X active`},
	{"a lease above the ceiling does not count at all", `
		alpha: X -> [X]48h1s
		at 1h X lapsed
		until X none`},
	{"a lease above the ceiling ends the one before", `
		alpha: X -> [X] -> [X]49h
		at 2h X lapsed`},
	{"a renewed lease extends", `
		alpha: X -> [X] -> m=[X]
		at 25h59m X active
		at 26h X lapsed`},
	{"a renewed lease that is shorter shortens", `
		alpha: X -> [X] -> [X]1h
		at 2h59m X active
		at 3h X lapsed
		until X 3h`},
	{"a later lease that omits an offer ends it", `
		alpha: X -> Y -> [X,Y] -> [Y]
		at 4h X lapsed, Y active
		until X none, Y 27h`},
	{"an empty lease ends all", `
		alpha: X -> [X] -> []
		at 3h X lapsed`},
	{"a lease does not reach offers that it does not list", `
		alpha: X -> [X] -> Y
		at 3h X active, Y lapsed`},
	{"a member cannot lease another's offer", `
		alpha: X
		beta: [X]
		at 1h X lapsed`},
	{"a revocation ends an offer for ever", `
		alpha: X -> [X] -> !X -> m=[X]
		at 0h X revoked
		at 4h X revoked
		at 9999h X revoked`},
	{"a revocation leaves other offers alone", `
		alpha: X -> Y -> [X,Y] -> !X
		at 4h X revoked, Y active`},
	{"a revocation counts across a gap", `
		alpha: X -> [X] -> (Y) -> (Z) -> !X
		at 4h X revoked
		missing alpha 3-4
		heads alpha 2`},
	{"a revocation counts although nothing but its target is known", `
		alpha: (Y) -> X -> (m=[X]) -> !X
		at 4h X revoked
		missing alpha 1-1, alpha 3-3
		heads `},
	{"a revocation of another member's offer is void", `
		alpha: X -> [X]
		beta: !X -> !*
		at 2h X active`},
	{"a revocation of all reaches what was offered before and not after", `
		alpha: X -> Y -> [X,Y] -> !* -> Z -> [X,Y,Z]
		at 6h X revoked, Y revoked, Z active`},
	{"a revocation of all counts across a gap", `
		alpha: X -> [X] -> (Y) -> !*
		at 4h X revoked`},
	{"a second revocation of all reaches further", `
		alpha: X -> !* -> Y -> [Y] -> m=!* -> Z -> [Z]
		at 7h X revoked, Y revoked, Z active`},
	{"of several revocations the first in the feed is shown", `
		alpha: X -> Y -> Z -> a=!X -> b=!X -> c=!* -> d=!* -> e=!Y
		at 9h X revoked, Y revoked, Z revoked
		by X a, Y c, Z c`},
	{"an offer that is not revoked shows no revocation", `
		alpha: X -> a=!X -> Y
		by X a, Y none`},
	{"a gap before the newest lease makes it not count", `
		alpha: X -> (Y) -> [X]
		at 3h X lapsed
		until X none
		missing alpha 2-2`},
	{"a gap before the newest lease ends the lease before it too", `
		alpha: X -> [X] -> (Y) -> m=[X]
		at 4h X lapsed`},
	{"a gap after the newest lease does not end it", `
		alpha: X -> [X] -> (Y) -> Z
		at 4h X active, Z lapsed
		missing alpha 3-3
		heads alpha 2`},
	{"a lease that nobody passes on does not extend", `
		alpha: X -> [X] -> (m=[X])
		at 25h X lapsed`},
	{"a lease counts only once the feeds whose heads it names are here", `
		beta: B1 -> B2
		alpha: X -> [X]^B2
		at 2h X active`},
	{"a lease whose named head is missing does not count", `
		beta: B1 -> (B2)
		alpha: X -> [X]^B2
		at 2h X lapsed`},
	{"a lease whose named head has a gap before it does not count", `
		beta: (B1) -> B2
		alpha: X -> [X]^B2
		at 2h X lapsed`},
	{"a lease whose named head stands on a gap further down does not count", `
		beta: B1 -> (B2) -> B3 -> B4
		alpha: X -> [X]^B4
		at 2h X lapsed`},
	{"a lease counts once what is below its named head has come", `
		beta: B1 -> B2 -> B3 -> B4
		alpha: X -> [X]^B4
		at 2h X active`},
	{"a lease names the top of what can withdraw its member's offers, beyond gaps, and of nothing else", `
		alpha: X -> (Y) -> Z -> a=>d:revoke -> >e:renew
		alpha.rev: !Y -> (b=!Y) -> c=!Y
		alpha.rec: f=!Y -> >g:revoke
		d: (h=!Y) -> i=!Y
		e: [X]
		g: j=!Y
		beta.rev: k=!Y
		tops alpha alpha 5, alpha.rec 2, alpha.rev 3, d 2, g 1
		tops beta beta.rev 1
		tops gamma`},
	{"a revoker that the charter dropped is named still, and a key that was replaced is not", `
		alpha: X -> >d:revoke
		alpha.rev: !X
		alpha.rec: alpha~e
		d: a=!X
		charter c2 after c1 by alpha,beta: alpha.rev=g
		tops alpha alpha.rec 1, alpha.rev 1`},
	{"a lease whose named head is on another branch does not count", `
		beta: B1 -> B2
		beta: @B1 -> (B3)
		alpha: X -> [X]^B3
		at 2h X lapsed`},
	{"two notices at one seq suspend the member and no other", `
		alpha: X -> [X]
		alpha: @X -> Y
		beta: B -> m=[B]
		at 2h X suspended, Y suspended, B active
		heads alpha 2, alpha 2, alpha 2, beta 2`},
	{"two first notices suspend", `
		alpha: X -> [X]
		alpha: Y
		at 2h X suspended, Y suspended`},
	{"a fork below the newest lease suspends", `
		alpha: X -> Y -> [X,Y]
		alpha: @X -> Z
		at 3h X suspended, Y suspended, Z suspended
		heads alpha 2, alpha 2, alpha 3`},
	{"a fork far above suspends", `
		alpha: X -> [X] -> (A) -> (B) -> C
		alpha: @B -> D
		at 2h X suspended
		heads alpha 5, alpha 5, alpha 2`},
	{"a prev that names another notice than the one before suspends", `
		alpha: X -> (A) -> [X]
		alpha: @X -> B
		at 3h X suspended
		heads alpha 2, alpha 3, alpha 3`},
	{"two prevs that name two notices suspend though neither is here", `
		alpha: X -> (A) -> (B) -> C
		alpha: @A -> (D) -> E
		at 3h X suspended
		heads alpha 4, alpha 4, alpha 1`},
	{"a revocation on any branch of a fork counts", `
		alpha: X -> Y -> [X,Y]
		alpha: @X -> !X -> m=!Y
		at 3h X revoked, Y revoked`},
	{"three branches are one fork", `
		alpha: X -> A
		alpha: @X -> B
		alpha: @X -> C -> D
		at 1h X suspended
		heads alpha 2, alpha 2, alpha 3`},
	{"members do not mix", `
		alpha: X -> [X]
		beta: Y -> m=[Y] -> !Y
		gamma: Z
		at 3h X active, Y revoked, Z lapsed
		heads alpha 2, beta 3, gamma 1
		missing `},
	{"gaps are shown as runs", `
		alpha: X -> (A) -> B -> C -> (D) -> (E) -> F
		missing alpha 2-2, alpha 5-6
		heads alpha 1`},
}
