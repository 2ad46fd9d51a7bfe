package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/tokenizer"
	"chorus/node/openai"

	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	scryptWork = 10
	code := m.Run()
	if scratch != "" {
		os.RemoveAll(scratch)
	}
	// The runtime itself unmaps files that nobody refers to any more, whenever it collects.
	if err := goleak.Find(goleak.IgnoreAnyFunction("runtime.runCleanups")); err != nil && code == 0 {
		os.Stderr.WriteString(err.Error() + "\n")
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what must happen in the end.
const patience = 30 * time.Second

// scratch is the folder of the anchor that all tests share.
var scratch string

const testLayers = 2

// testAnchor makes a tiny anchor of random weights, once, and returns its folder and configuration.
var testAnchor = sync.OnceValues(func() (string, model.Config) {
	text := strings.Repeat("the cat sat on the mat, and the dog said: naïve café! ", 8)
	tok, err := tokenizer.Train(slices.Values([]string{text}), 300, []string{"<|endoftext|>"})
	if err != nil {
		panic(err)
	}
	c := model.Config{
		VocabSize: tok.VocabSize(), HiddenSize: 16, IntermediateSize: 24, Layers: testLayers, Heads: 2, KVHeads: 2,
		MaxPositions: 256, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{0},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	tensors, src := randomTensors(1)
	if _, err := model.BuildAnchor(c, src); err != nil {
		panic(err)
	}
	for _, t := range *tensors {
		if t.Name == "lm_head.weight" {
			clear(t.Values[:c.HiddenSize]) // the mark of the end is never the most likely
		}
	}
	if scratch, err = os.MkdirTemp("", "chorus-node-*"); err != nil {
		panic(err)
	}
	dir := filepath.Join(scratch, "anchor")
	if err := model.SaveAnchor(dir, c, tok, *tensors); err != nil {
		panic(err)
	}
	return dir, c
})

// randomTensors returns a source of random weights and what it gave.
func randomTensors(seed uint64) (*[]model.Tensor, model.Source) {
	rng := rand.New(rand.NewPCG(seed, 0))
	given := new([]model.Tensor)
	return given, func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		v := make([]float32, n)
		for i := range v {
			switch {
			case strings.HasSuffix(name, "bias"):
			case len(shape) == 1 && !strings.HasSuffix(name, "router.weight"):
				v[i] = 1
			default:
				v[i] = float32(rng.NormFloat64()) / 2
			}
		}
		*given = append(*given, model.Tensor{Name: name, Shape: shape, Values: v})
		return v, nil
	}
}

// terms are what a test may want of a charter beyond the usual.
type terms struct {
	leaseSeconds int64 // 0: an hour
	maxBlobBytes int64 // 0: 1 MiB
}

// A consortium is a charter and the homes of its members, some of whose nodes run.
type consortium struct {
	*testing.T
	anchor  cid.Cid
	charter *notice.Notice
	homes   map[string]Home
	nodes   map[string]*Node // those that run
}

// found makes the homes of members, of which the first is the steward, and their charter.
func found(t *testing.T, with terms, names ...string) *consortium {
	t.Helper()
	dir, _ := testAnchor()
	c := &consortium{T: t, homes: make(map[string]Home), nodes: make(map[string]*Node)}
	charter := &notice.Charter{
		Name: "test", Version: 1, Stewards: names[:1], Quorum: 1,
		LeaseSeconds: 3600, LeaseCeilingSeconds: 7200, MaxBlobBytes: 1 << 20, OffersPerDay: 100,
	}
	if with.leaseSeconds > 0 {
		charter.LeaseSeconds = with.leaseSeconds
	}
	if with.maxBlobBytes > 0 {
		charter.MaxBlobBytes = with.maxBlobBytes
	}
	for _, name := range names {
		h := Home(filepath.Join(t.TempDir(), name))
		c.homes[name] = h
		c.must(h.Init(Config{Member: name, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: []string{}, API: "127.0.0.1:0"}))
		m, err := h.Member(name)
		c.must(err)
		charter.Members = append(charter.Members, m)
		c.anchor, err = h.ImportAnchor(t.Context(), dir)
		c.must(err)
	}
	charter.Anchor = c.anchor
	slices.SortFunc(charter.Members, func(a, b notice.Member) int { return strings.Compare(a.Name, b.Name) })
	var err error
	c.charter, err = notice.Sign(charter, c.key(names[0]))
	c.must(err)
	for _, h := range c.homes {
		c.must(h.SetCharter(c.charter))
	}
	return c
}

func (c *consortium) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// key is the publishing key of a member.
func (c *consortium) key(name string) ed25519.PrivateKey {
	c.Helper()
	key, err := c.homes[name].PublishingKey()
	c.must(err)
	return key
}

// up starts the node of each name, with those that run already as its peers.
func (c *consortium) up(names ...string) {
	c.Helper()
	for _, name := range names {
		var peers []string
		for _, n := range c.nodes {
			peers = append(peers, n.Host().Addrs()...)
		}
		c.start(name, Options{}, peers...)
	}
}

// start starts one node with the peers given.
func (c *consortium) start(name string, o Options, peers ...string) *Node {
	c.Helper()
	h := c.homes[name]
	config, err := h.Config()
	c.must(err)
	config.Peers = append([]string{}, peers...)
	c.must(h.SetConfig(config))
	if o.Log == nil {
		o.Log = discard()
	}
	// Not the test's context: Close, and not its end, ends a node.
	n, err := New(context.Background(), h, o)
	c.must(err)
	c.nodes[name] = n
	c.Cleanup(func() {
		if c.nodes[name] == n {
			c.down(name)
		}
	})
	return n
}

func (c *consortium) down(names ...string) {
	c.Helper()
	for _, name := range names {
		n := c.nodes[name]
		delete(c.nodes, name)
		if err := n.Close(); err != nil {
			c.Errorf("closing %s: %v", name, err)
		}
	}
}

// await waits until the node of each name, or of all that run, satisfies done.
func (c *consortium) await(what string, done func(*Node) bool, names ...string) {
	c.Helper()
	if names == nil {
		names = slices.Collect(maps.Keys(c.nodes))
	}
	for _, name := range names {
		n := c.nodes[name]
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		err := n.Await(ctx, func() bool { return done(n) })
		cancel()
		if err != nil {
			s, _ := n.Status(c.Context())
			events, _ := n.Ledger().Events()
			c.Fatalf("%s: %s has not happened: %v\nstatus %+v\nevents %+v", name, what, err, s, events)
		}
	}
}

// expert writes an expert of random weights and returns its file. change, unless nil, changes a tensor.
func (c *consortium) expert(seed uint64, change func(*model.Tensor)) string {
	c.Helper()
	_, config := testAnchor()
	tensors, src := randomTensors(seed)
	_, err := model.BuildExpert(config, src)
	c.must(err)
	if change != nil {
		for i := range *tensors {
			change(&(*tensors)[i])
		}
	}
	path := filepath.Join(c.TempDir(), "expert.safetensors")
	c.must(model.SaveExpert(path, c.anchor.String(), *tensors))
	return path
}

func publication(path string) Publication {
	return Publication{Path: path, Domain: "cats", Licence: "CC0-1.0", Metrics: notice.Metrics{HeldoutBytes: 10, AnchorBitsPerByte: 2, ExpertBitsPerByte: 1}}
}

// publish has a member publish a random expert, and waits until all who run have it in their mixture.
func (c *consortium) publish(name string, seed uint64) (offer, blob cid.Cid) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	n := c.nodes[name]
	offer, err := n.Publish(ctx, publication(c.expert(seed, nil)))
	c.must(err)
	// And of its others, which a node lets go of for as long as it has the lease and lacks the offer before it.
	c.await("admission of "+name+"'s experts", func(n *Node) bool {
		return n.Mixture().stands(offer) && !slices.ContainsFunc(n.Ledger().Standings(now()), func(st ledger.Standing) bool {
			return st.Member == name && st.State == ledger.Active && !n.Mixture().stands(st.Notice)
		})
	})
	return offer, c.standing(n, offer).Offer.Blob
}

func (c *consortium) revoke(name string, offer cid.Cid) cid.Cid {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	id, err := c.nodes[name].Revoke(ctx, offer, "consent withdrawn")
	c.must(err)
	return id
}

func (c *consortium) standing(n *Node, offer cid.Cid) ledger.Standing {
	c.Helper()
	for _, st := range n.Ledger().Standings(now()) {
		if st.Notice == offer {
			return st
		}
	}
	c.Fatalf("%s does not know the offer %s", n.Member(), offer)
	panic("unreachable")
}

// uses reports whether a node's mixture has the offer's expert.
func uses(offer cid.Cid) func(*Node) bool {
	return func(n *Node) bool { return n.Mixture().stands(offer) }
}

// gone reports whether a node has neither the expert in its mixture nor its blob on disk.
func gone(offer, blob cid.Cid) func(*Node) bool {
	return func(n *Node) bool { return !n.Mixture().stands(offer) && !n.Blobs().Has(blob) }
}

// answer has a node continue a text by some tokens.
func (c *consortium) answer(n *Node, tokens int) openai.Result {
	c.Helper()
	r, err := n.Generate(c.Context(), openai.Request{Prompt: "the cat", MaxTokens: tokens}, func(openai.Token) error { return nil })
	c.must(err)
	return r
}

// share returns an expert's weight in an attribution; that of the anchor, if blob is undefined.
func share(shares []openai.Share, blob cid.Cid) (weight uint64) {
	name := "anchor"
	if blob.Defined() {
		name = blob.String()
	}
	for _, s := range shares {
		if s.Expert == name {
			weight += s.Weight
		}
	}
	return weight
}

// usage returns what a node's ledger has of an expert.
func (c *consortium) usage(n *Node, blob cid.Cid) (u ledger.Usage) {
	c.Helper()
	all, err := n.Ledger().Usage()
	c.must(err)
	for _, one := range all {
		if one.Expert == blob {
			return one
		}
	}
	return u
}

// events returns how often the node's account has a kind of event about an offer.
func (c *consortium) events(n *Node, kind ledger.EventKind, offer cid.Cid) (count int) {
	c.Helper()
	all, err := n.Ledger().Events()
	c.must(err)
	for _, e := range all {
		if e.Kind == kind && e.Offer == offer {
			count++
		}
	}
	return count
}

// status returns how the offer stands in a node's status.
func (c *consortium) status(n *Node, offer cid.Cid) Expert {
	c.Helper()
	s, err := n.Status(c.Context())
	c.must(err)
	for _, e := range s.Experts {
		if e.Offer == offer {
			return e
		}
	}
	c.Fatalf("the status of %s has no offer %s", n.Member(), offer)
	panic("unreachable")
}

// sign signs a notice with a member's key at a place of its feed, whatever is there.
func (c *consortium) sign(name string, seq uint64, prev cid.Cid, b notice.Body) *notice.Notice {
	c.Helper()
	key := c.key(name)
	b, err := notice.WithHeader(b, notice.Header{Charter: c.charter.CID, Key: notice.PublicKeyOf(key), Seq: seq, Prev: prev, Time: now()})
	c.must(err)
	n, err := notice.Sign(b, key)
	c.must(err)
	return n
}

// offerUnchecked has a member offer and lease a blob without the checks that Publish makes.
func (c *consortium) offerUnchecked(name, path string, change func(*notice.Offer)) cid.Cid {
	c.Helper()
	n := c.nodes[name]
	select {
	case <-n.Host().Reconciled():
	case <-c.Context().Done():
	}
	blob, size, err := n.Blobs().Put(c.Context(), path)
	c.must(err)
	o := &notice.Offer{Blob: blob, Size: size, Anchor: c.anchor, Domain: "cats", Licence: "CC0-1.0", TopK: 2, Bias: true}
	if change != nil {
		change(o)
	}
	offer, err := n.Ledger().Append(c.key(name), now(), o)
	c.must(err)
	c.must(n.Host().Publish(c.Context(), offer))
	n.signing.Lock()
	defer n.signing.Unlock()
	_, leased := n.own(now())
	c.must(n.sign(c.Context(), now(), append(leased, offer.CID)))
	return offer.CID
}

// A safeBuffer is a log that many goroutines may write to.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

var errStop = errors.New("the test has heard enough")
