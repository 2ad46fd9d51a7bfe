package simulation

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p"
	"chorus/p2p/simnet"

	"github.com/ipfs/go-cid"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// invade brings up somebody who is on no charter, dials everybody whatever lies between others, and is invited by one: that
// one lets it connect, and do nothing but ask to be admitted.
func (w *world) invade() {
	s := newNode(w, -1, "stranger")
	s.evil, s.outside = true, true
	w.stranger = s
	s.place = w.net.Join(s.nodeKey())
	for _, n := range w.nodes {
		w.net.Set(s.nodeKey(), n.nodeKey(), simnet.Link{Delay: time.Duration(5+n.number) * time.Millisecond})
	}
	w.nodes[0].guest = s.nodeKey()
	w.liar = &liar{world: w, feeds: make(map[notice.PublicKey][]*notice.Notice)}
	s.engine = p2p.NewEngine(p2p.EngineConfig{
		Self: s.nodeKey(), Charter: w.root.CID, Notices: w.liar, Network: s.place, Log: slog.New(slog.DiscardHandler),
	})
	s.place.Start(s.engine)
}

// leave takes the stranger down.
func (w *world) leave() {
	w.stranger.place.Stop()
	w.stranger.engine.Close()
}

// trespass has the stranger sign something that would be to its advantage, and bring it to everybody: by itself, by those
// who are dishonest, and in conversations.
func (w *world) trespass() {
	s := w.stranger
	o := w.target()
	if o == nil {
		return
	}
	of := w.owners[o.Header().Key].node
	var n *notice.Notice
	switch w.random.IntN(6) {
	case 0:
		n = w.sign(s.revoker, notice.Header{}, &notice.Revocation{Offer: o.CID, Reason: "says nobody"})
	case 1:
		n = w.next(s, s.publishing, &notice.Revocation{Member: of.name, Offer: o.CID, Reason: "say no stewards"})
	case 2:
		n = w.next(s, s.recovery, notice.NewRotation(w.root.CID, notice.PublicKeyOf(s.recovery), notice.RotatePublishing, of.publishingKey(), s.spare))
	case 3:
		n = w.next(s, s.recovery, &notice.Delegation{Delegate: notice.PublicKeyOf(s.delegate), Revoke: true, Offers: []cid.Cid{}, NotAfter: time.Now().UTC().Add(time.Hour)})
	default:
		s.made++
		name := fmt.Sprintf("%s %d", s.name, s.made)
		offer := w.next(s, s.publishing, &notice.Offer{Blob: blobOf(name), Size: 1, Anchor: w.charter.Anchor, Domain: name, Licence: "CC0-1.0", TopK: 2})
		w.liar.add(offer)
		w.hand(s, offer)
		n = w.next(s, s.publishing, &notice.Lease{Offers: []cid.Cid{offer.CID}, Heads: []notice.Head{}, NotAfter: time.Now().UTC().Add(lease)})
	}
	w.liar.add(n)
	w.say(nil, "the stranger brings %s", w.titled(n))
	w.count("trespass")
	s.place.Broadcast(context.Background(), n.Envelope)
	w.hand(s, n)
	w.hand(pick(w.random, append(w.running(dishonest), s)), n)
	w.mu.Lock()
	old := pick(w.random, w.order)
	w.mu.Unlock()
	w.hand(s, old) // what others signed it may pass on as little
}

// forge has somebody who is dishonest pass on a revocation in the name of who could sign it, with another's signature.
func (w *world) forge() {
	o, from := w.target(), pick(w.random, w.running(dishonest))
	if o == nil || from == nil {
		return
	}
	to := pick(w.random, w.running(func(n *node) bool { return !n.evil && !w.between(from, n).Cut }))
	if to == nil {
		return
	}
	body, err := notice.WithHeader(&notice.Revocation{Offer: o.CID, Reason: "forged"}, notice.Header{Charter: w.root.CID, Key: notice.PublicKeyOf(w.stranger.revoker), Time: time.Now().UTC()})
	if err != nil {
		panic(err)
	}
	signed, err := notice.Sign(body, w.stranger.revoker)
	if err != nil {
		panic(err)
	}
	w.count("forgery")
	to.engine.Receive(from.nodeKey(), rename(signed, notice.PublicKeyOf(w.owners[o.Header().Key].node.revoker)))
}

// rename returns the envelope of a notice with another key in the place of its own, and with its own signature.
func rename(n *notice.Notice, as notice.PublicKey) []byte {
	var env dsse.Envelope
	if err := json.Unmarshal(n.Envelope, &env); err != nil {
		panic(err)
	}
	payload, err := env.DecodeB64Payload()
	if err != nil {
		panic(err)
	}
	was, is := []byte(n.Header().Key.String()), []byte(as.String())
	payload = bytes.ReplaceAll(payload, was, is)
	envelope := bytes.Replace(n.Envelope, []byte(env.Payload), []byte(base64.StdEncoding.EncodeToString(payload)), 1)
	return bytes.ReplaceAll(envelope, was, is)
}

// A liar is what the stranger's engine goes by: everybody is a member, what the stranger signed is all there is, and what
// it is told it should not have been.
type liar struct {
	world *world

	mu    sync.Mutex
	feeds map[notice.PublicKey][]*notice.Notice // guarded by mu
}

var _ p2p.Notices = (*liar)(nil)

func (l *liar) add(n *notice.Notice) {
	if n.Header().Seq == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.feeds[n.Header().Key] = append(l.feeds[n.Header().Key], n)
}

// Add implements [p2p.Notices].
func (l *liar) Add(all ...*notice.Notice) ([]*notice.Notice, error) {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	for _, n := range all {
		l.world.breach(nil, "I9: a stranger is told of %s", l.world.title(n))
	}
	return nil, nil
}

// Frontiers implements [p2p.Notices].
func (l *liar) Frontiers() (all []notice.Frontier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, f := range l.feeds {
		last := f[len(f)-1]
		all = append(all, notice.Frontier{Head: notice.Head{Key: key, Seq: last.Header().Seq, CID: last.CID}})
	}
	return all
}

// Envelopes implements [p2p.Notices].
func (l *liar) Envelopes(key notice.PublicKey, seq uint64, _ int) (envelopes [][]byte, last uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.feeds[key] {
		if last = n.Header().Seq; last > seq {
			envelopes = append(envelopes, n.Envelope)
		}
	}
	return envelopes, last, nil
}

func (l *liar) Check(*notice.Notice) error                 { return nil }
func (l *liar) Charters() []*notice.Notice                 { return []*notice.Notice{l.world.root} }
func (l *liar) Proposals() []*notice.Notice                { return nil }
func (l *liar) Detached() []*notice.Notice                 { return nil }
func (l *liar) Seat(notice.PublicKey) (string, bool, bool) { return "somebody", true, true }
func (l *liar) Nodes() map[string]notice.PublicKey         { return nil }
func (l *liar) Changed() <-chan struct{}                   { return nil }
func (l *liar) Offered(cid.Cid) bool                       { return true }

// membersChange says of a seed whether the members of its world change and a stranger is about: so it is in two of five.
func membersChange(seed uint64, scale Scale) bool {
	return scale.Nodes < 100 && rand.New(rand.NewPCG(seed, 3)).IntN(5) < 2
}

// invite has one or two apply for membership, of whom some are dishonest.
func (w *world) invite() {
	random := rand.New(rand.NewPCG(w.seed, 4))
	w.charter.OffersPerDay = 3 + random.IntN(6)
	for range 1 + random.IntN(3)/2 {
		n := newNode(w, len(w.nodes), fmt.Sprintf("m%03d", len(w.nodes)))
		n.evil = random.IntN(4) == 0
		n.rote = n.evil || random.IntN(2) == 0
		n.outside = true
		w.settleIn(n)
		n.offset.Store(int64(time.Duration(random.Int64N(int64(2*delta))) - delta))
	}
}
