package ledger

import (
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// Frontiers returns what is held of each feed of which anything is held. Two
// ledgers with the same frontiers hold the same notices of feeds.
func (l *Ledger) Frontiers() []notice.Frontier {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var all []notice.Frontier
	for key, f := range l.consent.feeds {
		if f.top > 0 {
			all = append(all, f.frontier(key))
		}
	}
	return all
}

func (f *feed) frontier(key notice.PublicKey) notice.Frontier {
	at := notice.Frontier{Head: notice.Head{Key: key, Seq: f.complete}}
	if f.fork > 0 {
		at.Seq = min(at.Seq, f.fork-1)
	}
	if at.Seq > 0 {
		at.CID = f.end(at.Seq).cid()
	}
	var rest []cid.Cid
	for _, id := range f.chain[at.Seq:] {
		rest = append(rest, id.cid())
	}
	for _, links := range f.extra {
		for _, l := range links {
			rest = append(rest, l.id.cid())
		}
	}
	at.Rest = notice.RestOf(rest)
	return at
}
