package node

import (
	"fmt"
	"log/slog"
	"os"
	"slices"

	"chorus/ledger"

	"github.com/ipfs/go-cid"
)

// A holder is a place where something can be that derives from an expert: its weights, what was computed with them, or
// its blob.
type holder struct {
	what string

	// places are the fields and variables whose types can hold weights, as Type.field, with the package before it if that is another.
	// A test fails for each that no holder names.
	places []string

	drop   func(*Node, Admitted)      // lets go of an expert that may not be used any more
	delete func(*Node, cid.Cid) error // removes the blob of an expert that may not be held any more
	beyond string                     // if neither, how the expert leaves this place
}

// holders is the one list of everything on a node that can hold something derived from an expert. When an expert leaves,
// the list is walked in its order: what a token could still be computed with comes first.
var holders = []holder{
	{
		what:   "the mixture",
		places: []string{"Node.inUse", "Node.bare", "use.mixture", "Mixture.computes", "Mixture.Experts"},
		drop: func(n *Node, a Admitted) {
			// The steward has put another in its place, so that this finds nothing. It is here for whoever comes without it.
			n.using.Lock()
			defer n.using.Unlock()
			if u := n.inUse.Load(); u.mixture.stands(a.Offer) {
				n.inUse.Store(&use{mixture: n.bare})
			}
		},
	},
	{
		what:   "the sequences of answers under way: keys and values, hidden states and logits",
		places: []string{"Node.answers", "answer.sequence", "answer.mixture", "answer.use", "meter.mixture"},
		drop:   func(n *Node, _ Admitted) { n.letGo() },
	},
	{
		what:   "the expert: its packed or quantised copy, and the mapping of its blob",
		places: []string{"Admitted.loan", "loan.expert", "steward.Admitted.Expert", "steward.look.admitted"},
		drop:   func(_ *Node, a Admitted) { a.loan.call() },
	},
	{
		what:   "an admission under way",
		places: []string{"steward.admission.admitted", "steward.look.results"},
		beyond: "the steward cancels it, and drops what it gives if it ends all the same",
	},
	{
		what:   "the blob's file, a fetch of it and a transfer to a member; with them the answer to who holds the blob",
		delete: func(n *Node, blob cid.Cid) error { return n.blobs.Delete(blob) },
	},
	{
		what: "folders that were exported from this home, of which their owners were told when they were made",
		drop: func(n *Node, a Admitted) {
			if n.active(a.Offer, now()) {
				return // it is the node that ends
			}
			for _, dir := range n.exportsWith(a.Offer) {
				n.log.Error("an exported folder holds an expert that may not be used any more: delete it",
					slog.String("folder", dir), slog.String("member", a.Member), slog.String("domain", a.Domain))
			}
		},
	},
	{
		what:   "buffers of the arithmetic, for reuse: hidden states and other numbers that a step left in them",
		places: []string{"kernels.scratch", "kernels.open"},
		beyond: "whoever takes one writes what it then reads, so that nothing of a step reaches another; of work that is shared out nothing stays after its end, and the collector takes what waits unused",
	},
	{
		what:   "buffers of blobs' chunks on their way between the disk and a member, for reuse",
		places: []string{"p2p.chunkBuffers"},
		beyond: "a chunk is written over what was there, and no more than its length goes on; the collector takes what waits unused",
	},
	{
		what:   "commands of this home that compute with experts on offer: eval, value, export",
		places: []string{"main.namedExpert.expert", "eval.ValueJob.Experts"},
		beyond: "a command waits for the node's word that an expert that it opened is not in use any more, and then ends itself",
	},
}

// drop has every holder let go of an expert.
func (n *Node) drop(a Admitted) {
	for _, h := range holders {
		if h.drop != nil {
			h.drop(n, a)
		}
	}
}

// deleteBlob has every holder remove a blob.
func (n *Node) deleteBlob(blob cid.Cid) error {
	for _, h := range holders {
		if h.delete == nil {
			continue
		}
		if err := h.delete(n, blob); err != nil {
			return fmt.Errorf("%s: %w", h.what, err)
		}
	}
	return nil
}

// exportsWith returns the folders that were exported from this home with an offer's expert in them and are still there.
func (n *Node) exportsWith(offer cid.Cid) []string {
	events, err := n.ledger.Events()
	if err != nil {
		n.log.Error("reading the account", slog.Any("error", err))
	}
	return exports(events)[offer]
}

// exports returns the folders that hold each offer's expert: of those that the account names, the ones that are there.
func exports(events []ledger.Event) map[cid.Cid][]string {
	all := make(map[cid.Cid][]string)
	for _, e := range events {
		if e.Kind != ledger.EventExported || slices.Contains(all[e.Offer], e.Detail) {
			continue
		}
		if _, err := os.Stat(e.Detail); err == nil {
			all[e.Offer] = append(all[e.Offer], e.Detail)
		}
	}
	return all
}
