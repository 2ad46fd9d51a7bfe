package train

import (
	"math/rand/v2"

	"chorus/kernels"
)

// A topic is a second head that an anchor is trained with, and that is thrown away then. From the first layer's hidden state at each position
// it predicts a token that came before in the window, the farther back the rarer. What it learns to see there is what the text so far is about,
// and that is what routers need: of a network that only ever predicts the next token, the lower layers hold little more than the last few
// tokens, in which domains are hard to tell apart. FlexOlmo gains as much from an embedder that knows topics (table 3).
type topic struct {
	*parameter
	head    kernels.Matrix // (V, H)
	weight  float32
	targets []int32
	dx      []float32
	rng     *rand.Rand
}

// topicReach is how many tokens back the topic's targets are in the mean.
const topicReach = 100

// topicName is what the head is called in checkpoints of training.
const topicName = "topic"

// topicStream is the random stream of the topic's first values, and the first of those of its targets.
const topicStream = 1 << 62

func newTopic(r Recipe, vocab, hidden int) *topic {
	t := &topic{parameter: newParameter(0, topicName, []int{vocab, hidden}), weight: float32(r.Topic)}
	rng := rand.New(rand.NewPCG(r.Seed, topicStream))
	for i := range t.w {
		t.w[i] = float32(rng.NormFloat64() * 0.05)
	}
	t.head = kernels.NewMatrix(vocab, hidden, t.w)
	return t
}

// begin prepares the targets of a step.
func (t *topic) begin(r Recipe, step int) {
	t.rng = rand.New(rand.NewPCG(r.Seed, topicStream+1+uint64(step)))
}

// draw draws the targets of windows of length tokens.
func (t *topic) draw(ids []int32, length int) {
	grow(&t.targets, len(ids))
	for i := range ids {
		t.targets[i] = ids[i-min(i%length, int(t.rng.ExpFloat64()*topicReach))]
	}
}

// backward adds to dh, (rows, H), the gradient of what the head predicts from hidden, and stores that of the head, or adds it.
func (t *topic) backward(dh, hidden []float32, ids []int32, length int, scale float32, adds bool) {
	t.draw(ids, length)
	loss := kernels.HeadLoss
	if adds {
		loss = kernels.HeadLossAdd
	}
	loss(grow(&t.dx, len(hidden)), t.g, hidden, t.head, t.targets, 0, scale/t.weight, len(ids))
	kernels.Axpy(dh[:len(hidden)], 1, t.dx)
}
