package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"chorus/ledger"
	"chorus/model"
)

// A Refusal says why this node will not use an expert that its owner offers. It is final for the
// offer.
type Refusal struct{ Reason error }

func (r *Refusal) Error() string { return r.Reason.Error() }
func (r *Refusal) Unwrap() error { return r.Reason }

func refuse(format string, args ...any) error { return &Refusal{fmt.Errorf(format, args...)} }

// admit decides about an expert: it fetches the blob if it is not here, checks that it is what the
// offer says and what the anchor needs, and runs it once. The verdict and the reason are kept in the
// ledger. An error that is not a [Refusal] says that it could not be decided yet.
func (n *Node) admit(ctx context.Context, st ledger.Standing) (Admitted, error) {
	a, err := n.examine(ctx, st)
	verdict := ledger.Verdict{Offer: st.Notice, Admitted: err == nil, Time: now()}
	event := ledger.Event{Time: verdict.Time, Kind: ledger.EventAdmitted, Expert: st.Offer.Blob, Offer: st.Notice}
	if err != nil {
		refusal, final := err.(*Refusal)
		if !final {
			return a, err
		}
		verdict.Reason, event.Kind, event.Detail = refusal.Error(), ledger.EventRefused, refusal.Error()
	}
	if err := n.ledger.SetVerdict(verdict); err != nil {
		return a, err
	}
	n.record(event)
	return a, err
}

func (n *Node) examine(ctx context.Context, st ledger.Standing) (a Admitted, err error) {
	o := st.Offer
	charter := n.ledger.Charter()
	switch {
	case !o.Anchor.Equals(charter.Anchor):
		return a, refuse("the expert was trained against anchor %s, the charter's is %s", o.Anchor, charter.Anchor)
	case o.Size > charter.MaxBlobBytes:
		return a, refuse("the expert has %d bytes, the charter allows %d", o.Size, charter.MaxBlobBytes)
	}
	if !n.blobs.Has(o.Blob) {
		if err := n.host.Fetch(ctx, o.Blob, o.Size, nil); err != nil {
			return a, fmt.Errorf("fetching expert %s of %s: %w", o.Blob, st.Member, err)
		}
	}
	path := n.blobs.Path(o.Blob)
	expert, err := loadExpert(path, n.anchor)
	if errors.As(err, new(*fs.PathError)) {
		return a, err // of this disk, or of a blob that was deleted meanwhile, and not of the expert
	} else if err != nil {
		return a, refuse("%s", strings.TrimPrefix(err.Error(), path+": "))
	}
	if expert.Anchor != o.Anchor.String() {
		return a, refuse("the blob names anchor %q, its offer %s", expert.Anchor, o.Anchor)
	}
	expert.Pack(n.config.Weights)
	if err := n.probe(expert); err != nil {
		return a, &Refusal{err}
	}
	return Admitted{Offer: st.Notice, Blob: o.Blob, Member: st.Member, Domain: o.Domain, expert: expert, used: n.lastUsed(st.Notice)}, nil
}

// loadExpert opens an expert's blob that comes from elsewhere.
func loadExpert(path string, a *model.Anchor) (*model.Expert, error) {
	e, err := model.LoadExpert(path, a)
	if err != nil {
		return nil, err
	}
	return e, e.CheckFinite()
}

// probe runs an expert beside the public FFN on a few tokens: finite weights can still overflow.
func (n *Node) probe(e *model.Expert) error {
	c := n.anchor.Config
	ids := make([]int32, min(16, c.MaxPositions))
	for i := range ids {
		ids[i] = int32(i * 97 % c.VocabSize)
	}
	logits, err := model.NewMixture(n.anchor, e).NewSequence().Extend(ids)
	if err != nil {
		return err
	}
	for _, v := range logits {
		if v-v != 0 {
			return fmt.Errorf("the expert computes %v", v)
		}
	}
	return nil
}
