package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/model"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// hands are what the node's steward acts through.
type hands struct{ *Node }

var _ steward.Hands = hands{}

// steward keeps the mixture to what the ledger says is consented to, until ctx ends.
func (n *Node) steward(ctx context.Context) {
	defer close(n.stopped)
	s := &steward.Steward{Member: n.Member(), Ledger: n.ledger, Hands: hands{n}, Log: n.log}
	if n.single() {
		close(n.caughtUp) // nobody else can know more of its feed
	} else {
		s.Reconciled, s.CaughtUp, s.Unheard = n.host.Reconciled(), n.caughtUp, others{n.host}.Unheard
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			if steward.CatchUp(ctx, others{n.host}, n.log) {
				close(n.caughtUp)
				// Of an export that was noted the statement may not have been signed, in a crash.
				if err := n.stateExports(ctx); err != nil {
					n.log.Error("stating what was exported", slog.Any("error", err))
				}
			}
		})
	}
	s.Run(ctx)
}

// Held implements [steward.Hands].
func (h hands) Held(blob cid.Cid) bool { return h.blobs.Has(blob) }

// Fetch implements [steward.Hands].
func (h hands) Fetch(ctx context.Context, blob cid.Cid, size int64) error {
	return h.host.Fetch(ctx, blob, size, nil)
}

// Load implements [steward.Hands].
func (h hands) Load(ctx context.Context, st ledger.Standing) (steward.Expert, error) {
	path := h.blobs.Path(st.Offer.Blob)
	expert, err := loadExpert(path, h.anchor)
	if errors.As(err, new(*fs.PathError)) {
		return nil, err // of this disk, or of a blob that was deleted meanwhile, and not of the expert
	} else if err != nil {
		return nil, steward.Refuse("%s", strings.TrimPrefix(err.Error(), path+": "))
	}
	l := &loan{expert: expert, broken: func(err error) { h.log.Error("giving back an expert's memory", slog.Any("error", err)) }}
	if expert.Anchor != st.Offer.Anchor.String() {
		err = steward.Refuse("the blob names anchor %q, its offer %s", expert.Anchor, st.Offer.Anchor)
	} else if err = ctx.Err(); err == nil {
		expert.Pack(h.config.Weights)
		if failed := h.probe(expert); failed != nil {
			err = &steward.Refusal{Reason: failed}
		}
	}
	if err != nil {
		l.call()
		return nil, err
	}
	return l, nil
}

// loadExpert opens an expert's blob that comes from elsewhere.
func loadExpert(path string, a *model.Anchor) (*model.Expert, error) {
	e, err := model.LoadExpert(path, a)
	if err != nil {
		return nil, err
	}
	if err := e.CheckFinite(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
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

// admitted returns the node's own view of what its steward admitted.
func (h hands) admitted(a steward.Admitted) Admitted {
	return Admitted{
		Offer: a.Notice, Blob: a.Offer.Blob, Member: a.Member, Domain: a.Offer.Domain,
		loan: a.Expert.(*loan), used: h.lastUsed(a.Notice),
	}
}

// Use implements [steward.Hands]. It makes a mixture if it is not the one that runs.
func (h hands) Use(set []steward.Admitted, why string, until time.Time) {
	h.using.Lock()
	defer h.using.Unlock()
	old := h.inUse.Load().mixture
	same := slices.EqualFunc(old.Experts, set, func(a Admitted, b steward.Admitted) bool { return a.Offer == b.Notice })
	if same && (len(set) > 0 || old.Why == why) {
		h.inUse.Store(&use{old, until})
		return
	}
	withdrawn := h.withdrawn() // perhaps since the steward looked
	var experts []Admitted
	for _, a := range set {
		if !withdrawn[a.Notice] {
			experts = append(experts, h.admitted(a))
		}
	}
	h.run(experts, cmp.Or(why, steward.NoneStands), until)
}

// Drop implements [steward.Hands].
func (h hands) Drop(a steward.Admitted) { h.drop(h.admitted(a)) }

// Delete implements [steward.Hands]. A publication that names the blob waits for its end, or keeps it from
// beginning: see publish.
func (h hands) Delete(blob cid.Cid) (bool, error) {
	h.signing.Lock()
	defer h.signing.Unlock()
	offers, _ := h.own(now())
	for _, o := range offers {
		if o.Blob == blob {
			return false, nil
		}
	}
	return true, h.deleteBlob(blob)
}

// Renew implements [steward.Hands].
func (h hands) Renew(ctx context.Context, _ []cid.Cid) error {
	h.signing.Lock()
	defer h.signing.Unlock()
	// A publication may have signed one since the steward looked.
	at := time.Now()
	p := steward.Decide(steward.View{
		At: at, Member: h.Member(), Lease: time.Duration(h.ledger.Charter().LeaseSeconds) * time.Second,
		Standings: h.ledger.Standings(at.UTC()), Reconciled: true, CaughtUp: true,
	})
	if p.Renew == nil {
		return nil
	}
	return h.sign(ctx, at.UTC(), p.Renew)
}

// Looked implements [steward.Hands].
func (h hands) Looked() { h.announce() }
