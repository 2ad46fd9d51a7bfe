package p2p

import (
	"context"
	"crypto/sha256"
	"time"

	"chorus/ledger/notice"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Gossip makes notices fast; synchronisation makes them certain. There is one topic for each charter.
const (
	topicPrefix   = "chorus/notices/2/" // and the CID of version 1 of the charter
	maxGossip     = notice.MaxCharterSize + 4<<10
	gossipBacklog = 4096 // messages that may wait to be validated; pubsub's default is 32
)

// joinTopic begins to receive, keep and forward the notices of the charter. Messages bear no author: each notice
// says who signed it, and whoever passes it on is connected and known.
func (h *Host) joinTopic() error {
	name := topicPrefix + h.charter.String()
	ps, err := pubsub.NewGossipSub(h.ctx, nodesOnly{h.host, h.gate},
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithMaxMessageSize(maxGossip),
		pubsub.WithValidateQueueSize(gossipBacklog),
		pubsub.WithFloodPublish(true), // to every connected member, also before the mesh stands
		pubsub.WithPeerFilter(func(id peer.ID, _ string) bool { return h.gate.node(id) }),
		pubsub.WithPeerScore(h.scores(name)),
		// The same notice from two publishers is one message.
		pubsub.WithMessageIdFn(func(m *pubsubpb.Message) string {
			sum := sha256.Sum256(m.GetData())
			return string(sum[:])
		}),
	)
	if err != nil {
		return err
	}
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

// scores says how pubsub judges its neighbours. Nobody gains by what they pass on; whoever passes on what is
// rejected nine times within an hour, or is shunned, is no longer listened to. Shunned, and hung up on, it is before that.
func (h *Host) scores(topic string) (*pubsub.PeerScoreParams, *pubsub.PeerScoreThresholds) {
	const (
		ignored  = -80
		rejected = -1 // times the square of how often
		tooMuch  = -1 // likewise, for control messages that serve no purpose
	)
	params := &pubsub.PeerScoreParams{
		AppSpecificScore: func(id peer.ID) float64 {
			// Whoever is no member any more is here until its farewell is over: the charter that says so must reach it.
			if key, ok := keyOf(id); !ok || h.engine.shuns(key) {
				return 2 * ignored
			}
			return 0
		},
		AppSpecificWeight:         1,
		BehaviourPenaltyWeight:    tooMuch,
		BehaviourPenaltyThreshold: 6,
		BehaviourPenaltyDecay:     pubsub.ScoreParameterDecay(10 * time.Minute),
		DecayInterval:             pubsub.DefaultDecayInterval,
		DecayToZero:               pubsub.DefaultDecayToZero,
		RetainScore:               time.Hour,
		Topics: map[string]*pubsub.TopicScoreParams{topic: {
			SkipAtomicValidation:           true,
			TopicWeight:                    1,
			TimeInMeshQuantum:              time.Second,
			InvalidMessageDeliveriesWeight: rejected,
			InvalidMessageDeliveriesDecay:  pubsub.ScoreParameterDecay(time.Hour),
		}},
	}
	return params, &pubsub.PeerScoreThresholds{GossipThreshold: ignored / 8, PublishThreshold: ignored / 2, GraylistThreshold: ignored}
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
