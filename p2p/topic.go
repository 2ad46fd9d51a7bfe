package p2p

import (
	"context"
	"crypto/sha256"

	"chorus/ledger/notice"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Gossip makes notices fast; synchronisation makes them certain. There is one topic for each charter.
const (
	topicPrefix   = "chorus/notices/2/" // and the CID of version 1 of the charter
	maxGossip     = notice.MaxSize + 4<<10
	gossipBacklog = 4096 // messages that may wait to be validated; pubsub's default is 32
)

// joinTopic begins to receive, keep and forward the notices of the charter. Messages bear no author: each notice
// says who signed it, and whoever passes it on is connected and known.
func (h *Host) joinTopic() error {
	ps, err := pubsub.NewGossipSub(h.ctx, nodesOnly{h.host, h.gate},
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithMaxMessageSize(maxGossip),
		pubsub.WithValidateQueueSize(gossipBacklog),
		pubsub.WithFloodPublish(true), // to every connected member, also before the mesh stands
		pubsub.WithPeerFilter(func(id peer.ID, _ string) bool { return h.gate.node(id) }),
		// The same notice from two publishers is one message.
		pubsub.WithMessageIdFn(func(m *pubsubpb.Message) string {
			sum := sha256.Sum256(m.GetData())
			return string(sum[:])
		}),
	)
	if err != nil {
		return err
	}
	name := topicPrefix + h.charter.String()
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
			h.engine.Meet(m.node)
		}
	}
}

// validate decides on a message before it is forwarded. The host's own are stored and checked before they come here.
func (h *Host) validate(_ context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	if from == h.host.ID() {
		return pubsub.ValidationAccept
	}
	key, ok := keyOf(from)
	if !ok {
		return pubsub.ValidationReject
	}
	switch h.engine.Receive(key, msg.GetData()) {
	case Accept:
		return pubsub.ValidationAccept
	case Reject:
		return pubsub.ValidationReject
	}
	return pubsub.ValidationIgnore
}
