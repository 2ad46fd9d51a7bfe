package node

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"chorus/ledger"
	"chorus/model"
	"chorus/node/openai"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// A Mixture is what the node runs at one time. It is immutable: a change of experts makes a new
// one, which takes the old one's place between two tokens. To compute with it, see [Node.Compute].
type Mixture struct {
	computes *model.Mixture // between begin and end
	Experts  []Admitted     // Experts[i] stands in slot i+1
	Why      string         // if there are none, why the anchor is alone
}

// An Admitted expert is one that this node's admission took in.
type Admitted struct {
	Offer, Blob    cid.Cid
	Member, Domain string

	loan *loan
	used *atomic.Int64
}

// use is which mixture may be used, and until when.
type use struct {
	mixture *Mixture
	until   time.Time // zero if it has no expert
}

// Mixture returns what the node runs now. The steward sees to it that this is as the owners of its experts consent; once a
// lease has ended it is the anchor alone, whether or not the steward has come to look.
func (n *Node) Mixture() *Mixture {
	u := n.inUse.Load()
	if !u.until.IsZero() && steward.Over(time.Now(), u.until) {
		return n.bare
	}
	return u.mixture
}

// Compute calls do with the mixture of this moment, as a step of an answer does. Nothing of it may be kept after do
// returns, and do must not take long: the memory of an expert that leaves meanwhile is given back afterwards.
func (n *Node) Compute(do func(*model.Mixture) error) error {
	m := n.begin()
	defer m.end()
	return do(m.computes)
}

// begin returns the mixture of this moment, which may be computed with until end is called.
func (n *Node) begin() *Mixture {
	for {
		// An expert is called in only after another mixture has taken the place of this one.
		if m := n.Mixture(); m.begin() {
			return m
		}
	}
}

func (m *Mixture) begin() bool {
	for i, a := range m.Experts {
		if !a.loan.take() {
			for _, a := range m.Experts[:i] {
				a.loan.give()
			}
			return false
		}
	}
	return true
}

func (m *Mixture) end() {
	for _, a := range m.Experts {
		a.loan.give()
	}
}

// stands reports whether an offer's expert stands in the mixture.
func (m *Mixture) stands(offer cid.Cid) bool {
	return slices.ContainsFunc(m.Experts, func(a Admitted) bool { return a.Offer == offer })
}

// withdraw puts, in the place of a mixture with experts that were withdrawn, one without them. Whoever takes in a notice
// that may withdraw something calls it at once: the steward, who sees to all the rest, may be at work with the disk.
func (n *Node) withdraw() {
	n.using.Lock()
	defer n.using.Unlock()
	u := n.inUse.Load()
	if u == nil || len(u.mixture.Experts) == 0 {
		return
	}
	withdrawn := n.withdrawn()
	stay := slices.DeleteFunc(slices.Clone(u.mixture.Experts), func(a Admitted) bool { return withdrawn[a.Offer] })
	if len(stay) < len(u.mixture.Experts) {
		n.run(stay, steward.NoneStands, u.until)
		n.announce()
	}
}

// withdrawn returns the offers that may not be used whatever the time is.
func (n *Node) withdrawn() map[cid.Cid]bool {
	all := make(map[cid.Cid]bool)
	for _, st := range n.ledger.Standings(now()) {
		all[st.Notice] = st.State != ledger.Active && st.State != ledger.Lapsed
	}
	return all
}

// run puts the mixture of experts in the place of the one in use, and if there are none the anchor alone, which why is for. The
// caller holds using.
func (n *Node) run(experts []Admitted, why string, until time.Time) {
	m := n.alone(why)
	if len(experts) > 0 {
		m = n.assemble(experts)
	} else {
		until = time.Time{}
	}
	n.inUse.Store(&use{m, until})
	n.log.Info("mixture", slog.Int("experts", len(experts)), slog.String("why", m.Why))
}

func (n *Node) alone(why string) *Mixture {
	return &Mixture{computes: model.NewMixture(n.anchor), Why: why}
}

func (n *Node) assemble(experts []Admitted) *Mixture {
	m := &Mixture{Experts: experts}
	var parts []*model.Expert
	for _, a := range experts {
		parts = append(parts, a.loan.expert)
	}
	m.computes = model.NewMixture(n.anchor, parts...)
	return m
}

// share returns slot's part in usage, the weights of all slots.
func (m *Mixture) share(slot int, weight, total uint64) openai.Share {
	s := openai.Share{Expert: "anchor", Weight: weight}
	if total > 0 {
		s.Share = float64(weight) / float64(total)
	}
	if slot > 0 {
		a := m.Experts[slot-1]
		s.Expert, s.Offer, s.Member, s.Domain = a.Blob.String(), a.Offer.String(), a.Member, a.Domain
	}
	return s
}

// LastUsed returns when the offer's expert last took part in a token on this node, zero if never
// since the node started.
func (n *Node) LastUsed(offer cid.Cid) time.Time {
	if v, ok := n.used.Load(offer); ok {
		if at := v.(*atomic.Int64).Load(); at != 0 {
			return time.Unix(0, at)
		}
	}
	return time.Time{}
}

// lastUsed returns where the time of offer's last token is kept.
func (n *Node) lastUsed(offer cid.Cid) *atomic.Int64 {
	v, _ := n.used.LoadOrStore(offer, new(atomic.Int64))
	return v.(*atomic.Int64)
}

// A meter adds up what the experts did for one request, over all the mixtures it ran on.
type meter struct {
	node    *Node
	mixture *Mixture
	before  []uint64 // usage of the sequence when it was last read
	tokens  int      // length of the sequence then
	sum     []openai.Share
	pending []ledger.Usage // not yet in the ledger
}

// read takes in what seq has done since the last call and returns it, slot by slot.
func (t *meter) read(m *Mixture, seq *model.Sequence) []openai.Share {
	if m != t.mixture {
		t.mixture, t.before, t.tokens = m, make([]uint64, 1+len(m.Experts)), 0
	}
	usage, tokens := seq.Usage(), seq.Len()
	total := uint64(tokens-t.tokens) * uint64(len(t.node.anchor.Layers)) * model.UsageScale
	shares := make([]openai.Share, len(usage))
	at := time.Now().UnixNano()
	for slot, w := range usage {
		shares[slot] = m.share(slot, w-t.before[slot], total)
		u := ledger.Usage{Tokens: uint64(tokens - t.tokens), Weight: w - t.before[slot]}
		if slot > 0 {
			u.Expert = m.Experts[slot-1].Blob
			m.Experts[slot-1].used.Store(at)
		}
		t.pending = append(t.pending, u)
		t.add(shares[slot])
	}
	t.before, t.tokens = usage, tokens
	return shares
}

func (t *meter) add(s openai.Share) {
	for i := range t.sum {
		if t.sum[i].Expert == s.Expert && t.sum[i].Offer == s.Offer {
			t.sum[i].Weight += s.Weight
			return
		}
	}
	t.sum = append(t.sum, s)
}

// total returns the shares in the whole request.
func (t *meter) total() []openai.Share {
	var all uint64
	for _, s := range t.sum {
		all += s.Weight
	}
	out := append([]openai.Share(nil), t.sum...)
	for i := range out {
		out[i].Share = float64(out[i].Weight) / float64(max(1, all))
	}
	return out
}

// record makes what was read so far durable.
func (t *meter) record() error {
	if len(t.pending) == 0 {
		return nil
	}
	err := t.node.ledger.RecordUsage(t.pending)
	t.pending = t.pending[:0]
	return err
}
