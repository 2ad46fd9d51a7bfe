package p2p

import (
	"context"
	"crypto/sha256"
	"fmt"

	"chorus/ledger/notice"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Gossip makes notices fast; synchronisation makes them certain. There is one topic for each charter.
const (
	topicPrefix   = "chorus/notices/1/" // and the CID of version 1 of the charter
	maxGossip     = notice.MaxSize + 4<<10
	gossipBacklog = 4096 // messages that may wait to be validated; pubsub's default is 32
)

// joinTopic begins to receive, keep and forward the notices of the charter.
func (h *Host) joinTopic() error {
	ps, err := pubsub.NewGossipSub(h.ctx, h.host,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictSign),
		pubsub.WithMaxMessageSize(maxGossip),
		pubsub.WithValidateQueueSize(gossipBacklog),
		pubsub.WithFloodPublish(true), // to every connected member, also before the mesh stands
		// The same notice from two publishers is one message.
		pubsub.WithMessageIdFn(func(m *pubsubpb.Message) string {
			sum := sha256.Sum256(m.GetData())
			return string(sum[:])
		}),
	)
	if err != nil {
		return err
	}
	name := topicPrefix + h.charter.CID.String()
	if err := ps.RegisterTopicValidator(name, h.validate); err != nil {
		return err
	}
	if h.topic, err = ps.Join(name); err != nil {
		return err
	}
	events, err := h.topic.EventHandler()
	if err != nil {
		return err
	}
	h.wg.Go(func() { h.followTopic(events) })
	_, err = h.topic.Relay() // without a subscription: validate is the one that takes the notices
	return err
}

// followTopic synchronises with each member that begins to listen. Gossip goes only to those who have said that
// they do, a moment after they connect, and that of the moment before would wait for the next minute's synchronisation.
func (h *Host) followTopic(events *pubsub.TopicEventHandler) {
	defer events.Cancel()
	for {
		e, err := events.NextPeerEvent(h.ctx)
		if err != nil {
			return
		}
		if m := h.memberOf(e.Peer); m != nil && e.Type == pubsub.PeerJoin {
			m.signal()
		}
	}
}

// Publish spreads a notice of a feed to all members that are reachable now, after adding it to the host's own
// notices. Those who are not reachable get it by synchronisation. Publishing what has spread already does nothing.
func (h *Host) Publish(ctx context.Context, n *notice.Notice) error {
	if err := h.check(n); err != nil {
		return fmt.Errorf("publish %s: %w", n.CID, err)
	}
	if err := h.topic.Publish(ctx, n.Envelope); err != nil {
		return fmt.Errorf("publish %s: %w", n.CID, err)
	}
	return nil
}

// validate decides on a message, the host's own included, before it is forwarded. It rejects what no honest
// member sends, and ignores what this node fails to store.
func (h *Host) validate(_ context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	if !h.enter() {
		return pubsub.ValidationIgnore
	}
	defer h.wg.Done()
	author := msg.GetFrom()
	if h.memberOf(author) == nil && author != h.self.id {
		h.log.Warn("gossip of a stranger rejected", "author", author, "from", h.nameOf(from))
		return pubsub.ValidationReject
	}
	n, err := notice.Parse(msg.GetData())
	if err == nil {
		err = h.check(n)
	}
	if err != nil {
		h.log.Warn("gossip rejected", "author", h.nameOf(author), "from", h.nameOf(from), "error", err)
		return pubsub.ValidationReject
	}
	if _, err := h.add(n); err != nil {
		h.log.Error("notice not stored", "notice", n.CID, "error", err)
		return pubsub.ValidationIgnore
	}
	return pubsub.ValidationAccept
}

// check refuses notices that do not belong to a feed of a member of this charter.
func (h *Host) check(n *notice.Notice) error {
	head := n.Header()
	if head == nil {
		return fmt.Errorf("%w: a %s belongs to no feed", ErrMalformed, n.Kind)
	}
	if !head.Charter.Equals(h.charter.CID) {
		return fmt.Errorf("%w: notice for the charter %s", ErrNotMember, head.Charter)
	}
	if _, ok := h.charterBody().Member(head.Key); !ok {
		return fmt.Errorf("publishing key %s: %w", head.Key, ErrNotMember)
	}
	return nil
}

// add stores a checked notice and takes note of a fork that it shows.
func (h *Host) add(n *notice.Notice) (fresh bool, err error) {
	fresh, err = h.notices.Add(n)
	if fresh && err == nil {
		err = h.forks.look(h.notices, n.Header().Key, n.Header().Seq-1)
	}
	return fresh, err
}

func (h *Host) charterBody() *notice.Charter { return h.charter.Body.(*notice.Charter) }
