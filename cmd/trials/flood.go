package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"
)

func floodTrial() *cobra.Command {
	var span time.Duration
	c := &cobra.Command{
		Use:   "flood",
		Short: "Measure what a stranger, and a member who floods, cost a node that serves",
		Long: `Runs one node as a process of the chorus command, which answers a local program without a pause, and another program that means ill:
first a member who gossips notices that it signs as fast as it can, then one who gossips garbage, then one who begins conversations and
says nothing, and last strangers who connect again and again: what those use up of the handshakes that the node holds with one
address, members there lack for a while. It prints what the node's processor time and memory are, and how long the local
program waits for an answer of four tokens, beside what they are when it is left alone.

The two share this machine, so that the node waits for the other's work too: what counts is the node's own processor time.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runFlood(c.Context(), span) },
	}
	c.Flags().DurationVar(&span, "span", 10*time.Second, "how long each goes on")
	return c
}

const (
	floodCPU    = 0.25      // processors that an attack may take beyond what serving takes
	floodMemory = 128 << 20 // bytes that all of them may add
)

func runFlood(ctx context.Context, span time.Duration) error {
	dir, chorus, err := trialFolder(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const members = 4
	ports, err := freePorts(2 * members)
	if err != nil {
		return err
	}
	var places []place
	for i := range members {
		places = append(places, place{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ports[2*i]), fmt.Sprintf("127.0.0.1:%d", ports[2*i+1])})
	}
	c, err := found(ctx, dir, 24*60*60, places)
	if err != nil {
		return err
	}
	victim := newProcess(chorus, c.homes[0], "http://"+places[0].api)
	if err := victim.start(); err != nil {
		return err
	}
	defer victim.kill()
	address, err := victim.address(ctx)
	if err != nil {
		return err
	}
	var attackers []*attacker // each another member: who was found out is not spoken with for a while
	for _, home := range c.homes[1:] {
		a := &attacker{address: address, charter: c.charter}
		if a.member, err = privateKey(filepath.Join(string(home), "node.key")); err != nil {
			return err
		}
		if a.publishing, err = home.PublishingKey(); err != nil {
			return err
		}
		attackers = append(attackers, a)
	}
	signer, asker, babbler := attackers[0], attackers[1], attackers[2]
	asking, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	waits := &waits{}
	wg.Go(func() { waits.ask(asking, victim) })

	t := &tally{}
	fmt.Printf("%-44s %10s %12s %10s %10s %10s\n", "", "attempts", "processors", "memory MB", "p50 ms", "p99 ms")
	var rest usage
	first := int64(0)
	var claims []func()
	for _, attack := range []struct {
		what string
		do   func(context.Context) (int, error)
	}{
		{"left alone", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil }},
		{"a member gossips what it signs", signer.gossip(signer.sign)},
		{"a member gossips garbage", babbler.gossip(func(i int) []byte { return fmt.Appendf(nil, "garbage %d", i) })},
		{"a member asks for conversations", asker.converse},
		{"a stranger connects", signer.connect},
		{"left alone again", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil }},
	} {
		attacking, cancel := context.WithTimeout(ctx, span)
		before, err := usageOf(victim)
		if err != nil {
			cancel()
			return err
		}
		began := time.Now()
		waits.take()
		attempts, err := attack.do(attacking)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", attack.what, err)
		}
		took := time.Since(began).Seconds()
		after, err := usageOf(victim)
		if err != nil {
			return err
		}
		answers := waits.take()
		spent := usage{(after.cpu - before.cpu) / took, after.memory}
		fmt.Printf("%-44s %10d %12.2f %10.0f %10.1f %10.1f\n", attack.what, attempts, spent.cpu, float64(spent.memory)/1e6, ms(percentile(answers, 50)), ms(percentile(answers, 99)))
		if first == 0 {
			rest, first = spent, spent.memory
			continue
		}
		claims = append(claims, func() {
			t.check(len(answers) > 0, "%s: the node answers, %d times", attack.what, len(answers))
			t.check(spent.cpu-rest.cpu < floodCPU, "%s: it takes %.2f processors beyond serving, below %.2f", attack.what, max(0, spent.cpu-rest.cpu), floodCPU)
			t.check(spent.memory-first < floodMemory, "%s: memory has grown by %d MB, below %d MB", attack.what, (spent.memory-first)/1e6, floodMemory/1_000_000)
		})
	}
	for _, claim := range claims {
		claim()
	}
	return t.verdict()
}

// usage is what a process takes.
type usage struct {
	cpu    float64 // seconds, then processors
	memory int64   // resident bytes
}

// waits has how long a local program waited for each answer.
type waits struct {
	mu  sync.Mutex
	all []time.Duration // guarded by mu
}

func (w *waits) take() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

// ask asks for an answer of four tokens, and again 50 ms after it.
func (w *waits) ask(ctx context.Context, p *process) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		if count, err := p.complete(ctx, func([]string) {}); err == nil && count > 0 {
			w.mu.Lock()
			w.all = append(w.all, time.Since(began))
			w.mu.Unlock()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// address waits until the node is up and returns where it is for other members.
func (p *process) address(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if c, err := p.control(ctx); err == nil {
			if s, err := c.Status(ctx); err == nil && len(s.Addresses) > 0 {
				return s.Addresses[0], nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// An attacker knows a node's address and, as a member, its own keys.
type attacker struct {
	address            string
	charter            *notice.Notice
	member, publishing ed25519.PrivateKey
	seq                uint64
}

func (a *attacker) host(key ed25519.PrivateKey) (host.Host, *peer.AddrInfo, error) {
	k, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	to, err := peer.AddrInfoFromString(a.address)
	if err != nil {
		return nil, nil, err
	}
	h, err := libp2p.New(libp2p.Identity(k), libp2p.NoListenAddrs, libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}))
	return h, to, err
}

// connect connects as strangers, each time another one, from as many hands as there are processors.
func (a *attacker) connect(ctx context.Context) (int, error) {
	var attempts atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, key, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					return
				}
				h, to, err := a.host(key)
				if err != nil {
					return
				}
				_ = h.Connect(ctx, *to) // refused once the key is known
				attempts.Add(1)
				_ = h.Close()
			}
		})
	}
	wg.Wait()
	return int(attempts.Load()), nil
}

// gossip has the member's node publish one message after the other.
func (a *attacker) gossip(message func(int) []byte) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		h, to, err := a.host(a.member)
		if err != nil {
			return 0, err
		}
		defer h.Close()
		ps, err := pubsub.NewGossipSub(ctx, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithFloodPublish(true),
			pubsub.WithPeerOutboundQueueSize(4096))
		if err != nil {
			return 0, err
		}
		topic, err := ps.Join("chorus/notices/2/" + a.charter.CID.String())
		if err != nil {
			return 0, err
		}
		if err := h.Connect(ctx, *to); err != nil {
			return 0, err
		}
		for len(topic.ListPeers()) == 0 && ctx.Err() == nil {
			runtime.Gosched()
		}
		sent := 0
		for ; ctx.Err() == nil; sent++ {
			if err := topic.Publish(ctx, message(sent)); err != nil && ctx.Err() == nil {
				return sent, err
			}
		}
		return sent, nil
	}
}

// sign returns the next notice of the member's feed.
func (a *attacker) sign(int) []byte {
	a.seq++
	now := time.Now().UTC().Truncate(time.Second)
	b, err := notice.WithHeader(&notice.Lease{Heads: []notice.Head{}, Offers: []cid.Cid{}, NotAfter: now.Add(time.Hour)}, notice.Header{
		Charter: a.charter.CID, Key: notice.PublicKeyOf(a.publishing), Seq: a.seq + 1, Prev: a.charter.CID, Time: now,
	})
	if err != nil {
		panic(err) // every field is set here
	}
	n, err := notice.Sign(b, a.publishing)
	if err != nil {
		panic(err)
	}
	return n.Envelope
}

// converse begins conversations and says nothing in them.
func (a *attacker) converse(ctx context.Context) (int, error) {
	h, to, err := a.host(a.member)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	begun := 0
	for ctx.Err() == nil {
		if err := h.Connect(ctx, *to); err != nil {
			continue
		}
		if s, err := h.NewStream(ctx, to.ID, "/chorus/sync/2"); err == nil {
			begun++
			if begun%2 == 0 {
				_ = s.Reset() // and of every other one nothing more is heard
			} else if _, err := s.Write([]byte("??????????")); err != nil {
				_ = s.Reset()
			}
		}
	}
	return begun, nil
}

// privateKey reads a key as a home keeps it.
func privateKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: holds a %T", path, key)
	}
	return private, nil
}

// freePorts returns n ports of loopback that nobody listens on.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
