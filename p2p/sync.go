package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"
)

// The sync protocol. Both sides do the same at the same time: each sends a hello, then in pages the notices that
// the other one's hello shows it to lack, then end, and once it has stored all that it was sent, done. A frame is
// its kind (1), the length of its body (4, big-endian) and the body.
//
//	hello  JSON: the heads of the sender's feeds and the addresses of members that it knows
//	page   { length (4) envelope } …
//	end    empty
//	done   empty: what you sent is durable here
const (
	syncProtocol protocol.ID = "/chorus/sync/1"

	frameHello = 'h'
	framePage  = 'p'
	frameEnd   = 'e'
	frameDone  = 'd'

	maxFrame       = 1 << 20
	maxPages       = 1024 // in one conversation
	maxToldMembers = 256  // in a hello
	feedPage       = 256  // notices that are read from the store at once
	frameTimeout   = 2 * time.Minute
)

// A hello says what its sender knows.
type hello struct {
	Heads []feedHead    `json:"heads"`
	Addrs []memberAddrs `json:"addrs"`
}

type feedHead struct {
	Key    notice.PublicKey `json:"key"`
	Seq    uint64           `json:"seq"`
	CID    string           `json:"cid"`
	Forked bool             `json:"forked"` // the sender has two notices of one number
}

type memberAddrs struct {
	Node  notice.PublicKey `json:"node"`
	Addrs []string         `json:"addrs"`
}

func decodeHello(b []byte) (hello, error) {
	var m hello
	if err := json.Unmarshal(b, &m, json.RejectUnknownMembers(true)); err != nil {
		return hello{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, f := range m.Heads {
		if _, err := cid.Decode(f.CID); err != nil || f.Seq == 0 || f.Seq > notice.MaxSeq {
			return hello{}, fmt.Errorf("%w: head %d %q", ErrMalformed, f.Seq, f.CID)
		}
	}
	for _, a := range m.Addrs {
		if len(a.Addrs) > maxAddrs {
			return hello{}, fmt.Errorf("%w: %d addresses of a member", ErrMalformed, len(a.Addrs))
		}
		if _, err := parseAddrs(a.Addrs); err != nil {
			return hello{}, err
		}
	}
	return m, nil
}

func parseAddrs(texts []string) ([]multiaddr.Multiaddr, error) {
	var addrs []multiaddr.Multiaddr
	for _, text := range texts {
		if len(text) > maxAddrLen {
			return nil, fmt.Errorf("%w: address of %d characters", ErrMalformed, len(text))
		}
		a, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			return nil, fmt.Errorf("%w: address: %w", ErrMalformed, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// decodePage reads the notices of a page.
func decodePage(b []byte) ([]*notice.Notice, error) {
	var notices []*notice.Notice
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("%w: page", ErrMalformed)
		}
		size := binary.BigEndian.Uint32(b)
		if uint64(size) > uint64(len(b)-4) {
			return nil, fmt.Errorf("%w: page", ErrMalformed)
		}
		n, err := notice.Parse(b[4 : 4+size])
		if err != nil {
			return nil, err
		}
		notices = append(notices, n)
		b = b[4+size:]
	}
	return notices, nil
}

func appendToPage(page []byte, n *notice.Notice) []byte {
	page = binary.BigEndian.AppendUint32(page, uint32(len(n.Envelope)))
	return append(page, n.Envelope...)
}

// readFrame reads a frame and allocates nothing for one that is over maxFrame.
func readFrame(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", size, ErrTooLarge)
	}
	body = make([]byte, size)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

func writeFrame(w io.Writer, kind byte, body []byte) error {
	if len(body) > maxFrame {
		return fmt.Errorf("frame of %d bytes: %w", len(body), ErrTooLarge)
	}
	frame := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	_, err := w.Write(append(frame, body...))
	return err
}

// Sync exchanges with every connected member the notices that either side lacks. It succeeds if it could do so
// with one of them; the notices are then durable on both sides. The error wraps ErrAlone if nobody is connected.
func (h *Host) Sync(ctx context.Context) error {
	members := h.connected()
	if len(members) == 0 {
		return fmt.Errorf("sync: %w", ErrAlone)
	}
	var g errgroup.Group
	g.SetLimit(maxParallelMembers)
	errs := make([]error, len(members))
	for i, m := range members {
		g.Go(func() error {
			errs[i] = h.syncWith(ctx, m)
			return nil
		})
	}
	g.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("sync: %w", errors.Join(errs...))
}

// Reconciled returns a channel that is closed once the host has exchanged everything with at least one other
// member since it started.
func (h *Host) Reconciled() <-chan struct{} { return h.reconciled }

// syncWith begins a conversation with a connected member. When it shows a fork, a second one makes sure that both
// sides have both branches: only then does the other one's hello say that it knows of the fork.
func (h *Host) syncWith(ctx context.Context, m *member) error {
	before := h.forks.count()
	err := h.call(ctx, m)
	if err == nil && h.forks.count() != before {
		err = h.call(ctx, m)
	}
	if err != nil {
		return &MemberError{m.Name, err}
	}
	return nil
}

func (h *Host) call(ctx context.Context, m *member) error {
	open, cancel := context.WithTimeout(network.WithNoDial(ctx, "only connected members are asked"), frameTimeout)
	defer cancel()
	s, err := h.host.NewStream(open, m.id, syncProtocol)
	if err != nil {
		return err
	}
	return h.converse(ctx, s, m)
}

// serveSync is the other end of call.
func (h *Host) serveSync(s network.Stream) {
	m := h.memberOf(s.Conn().RemotePeer())
	if m == nil || !h.enter() {
		s.Reset()
		return
	}
	defer h.wg.Done()
	if err := h.converse(h.ctx, s, m); err != nil && h.ctx.Err() == nil {
		h.log.Info("sync ended", "member", m.Name, "error", err)
	}
}

// converse holds one conversation, on either side, and ends the stream.
func (h *Host) converse(ctx context.Context, s network.Stream, m *member) error {
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	defer context.AfterFunc(h.ctx, func() { s.Reset() })()
	theirs := make(chan hello, 1)
	g, gctx := errgroup.WithContext(ctx)
	half := func(f func() error) {
		g.Go(func() error {
			err := f()
			if err != nil {
				s.Reset() // which ends the other half
			}
			return err
		})
	}
	half(func() error {
		mine, err := h.hello()
		if err != nil {
			return err
		}
		if err := sendFrame(s, frameHello, mine); err != nil {
			return err
		}
		select {
		case their := <-theirs:
			return h.sendMissing(s, their)
		case <-gctx.Done():
			return context.Cause(gctx)
		}
	})
	half(func() error {
		_, body, err := receiveFrame(s, frameHello)
		if err != nil {
			return err
		}
		their, err := decodeHello(body)
		if err != nil {
			return err
		}
		h.learn(m, their.Addrs)
		theirs <- their
		return h.takePages(s, m)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := sendFrame(s, frameDone, nil); err != nil {
		return err
	}
	if _, _, err := receiveFrame(s, frameDone); err != nil {
		s.Reset()
		return err
	}
	h.once.Do(func() { close(h.reconciled) })
	return s.Close()
}

func sendFrame(s network.Stream, kind byte, body []byte) error {
	s.SetWriteDeadline(time.Now().Add(frameTimeout))
	return writeFrame(s, kind, body)
}

// receiveFrame reads a frame of one of these kinds.
func receiveFrame(s network.Stream, kinds ...byte) (byte, []byte, error) {
	s.SetReadDeadline(time.Now().Add(frameTimeout))
	kind, body, err := readFrame(s)
	if err == nil && !slices.Contains(kinds, kind) {
		err = fmt.Errorf("%w: frame %q where %q belongs", ErrMalformed, kind, kinds)
	}
	return kind, body, err
}

// hello returns what this host knows.
func (h *Host) hello() ([]byte, error) {
	m := hello{Heads: []feedHead{}, Addrs: []memberAddrs{}}
	for _, head := range h.notices.Heads() {
		m.Heads = append(m.Heads, feedHead{head.Key, head.Seq, head.CID.String(), h.forks.has(head.Key)})
	}
	tell := func(about *member, addrs []multiaddr.Multiaddr) {
		a := memberAddrs{Node: about.Node, Addrs: []string{}}
		for _, addr := range addrs {
			if text := addr.String(); len(text) <= maxAddrLen && len(a.Addrs) < maxAddrs {
				a.Addrs = append(a.Addrs, text)
			}
		}
		if len(a.Addrs) > 0 && len(m.Addrs) < maxToldMembers {
			m.Addrs = append(m.Addrs, a)
		}
	}
	tell(h.self, h.host.Addrs())
	for id, about := range h.members { // in an order of chance: all are told of in time
		tell(about, h.book.of(id))
	}
	return json.Marshal(m)
}

// learn takes in the addresses that a member sent, and has members dialled of whom they are news.
func (h *Host) learn(from *member, told []memberAddrs) {
	for _, t := range told {
		id, err := peerIDOf(t.Node)
		if err != nil {
			continue
		}
		about := h.memberOf(id)
		addrs, err := parseAddrs(t.Addrs)
		if about == nil || err != nil {
			continue
		}
		gained := h.book.learn(id, addrs, about == from)
		if gained && h.host.Network().Connectedness(id) != network.Connected {
			about.signal()
		}
	}
}

// sendMissing sends what their hello shows them to lack, and an end.
func (h *Host) sendMissing(s network.Stream, their hello) error {
	heads := make(map[notice.PublicKey]feedHead)
	for _, f := range their.Heads {
		heads[f.Key] = f
	}
	var page []byte
	for _, m := range h.charterBody().Members {
		after, err := h.lacksAfter(m.Publishing, heads[m.Publishing])
		if err != nil {
			return err
		}
		for n, err := range feed(h.notices, m.Publishing, after) {
			if err != nil {
				return err
			}
			if len(page)+4+len(n.Envelope) > maxFrame {
				if err := sendFrame(s, framePage, page); err != nil {
					return err
				}
				page = page[:0]
			}
			page = appendToPage(page, n)
		}
	}
	if len(page) > 0 {
		if err := sendFrame(s, framePage, page); err != nil {
			return err
		}
	}
	return sendFrame(s, frameEnd, nil)
}

// lacksAfter returns the number after which a feed must be sent to somebody whose head of it is their, or zero if
// they have none. A feed of which they have another branch is sent whole: it is the proof of the fork.
func (h *Host) lacksAfter(key notice.PublicKey, their feedHead) (uint64, error) {
	if their.Seq == 0 || h.forks.has(key) && !their.Forked {
		return 0, nil
	}
	at, err := h.notices.After(key, their.Seq-1, 1)
	if err != nil {
		return 0, err
	}
	if !their.Forked && len(at) > 0 && at[0].Header().Seq == their.Seq && at[0].CID.String() != their.CID {
		return 0, nil
	}
	return their.Seq, nil
}

// takePages stores what a member sends until its end.
func (h *Host) takePages(s network.Stream, m *member) error {
	for range maxPages {
		kind, body, err := receiveFrame(s, framePage, frameEnd)
		if err != nil || kind == frameEnd {
			return err
		}
		notices, err := decodePage(body)
		if err != nil {
			return err
		}
		for _, n := range notices {
			if err := h.check(n); err != nil {
				h.log.Warn("notice refused", "from", m.Name, "error", err)
				continue
			}
			fresh, err := h.add(n)
			if err != nil {
				return err
			}
			if fresh && n.Kind == notice.KindRevocation {
				// Nobody may have gossiped it, and it should not wait a minute at every node on its way.
				if err := h.Publish(h.ctx, n); err != nil {
					h.log.Warn("revocation not passed on at once", "error", err)
				}
			}
		}
	}
	return fmt.Errorf("over %d pages: %w", maxPages, ErrTooLarge)
}

// feed yields the stored notices of a feed whose number is above seq, ascending. An error ends it.
func feed(notices Notices, key notice.PublicKey, seq uint64) iter.Seq2[*notice.Notice, error] {
	return func(yield func(*notice.Notice, error) bool) {
		for {
			page, err := notices.After(key, seq, feedPage)
			if err != nil {
				yield(nil, err)
				return
			}
			last := len(page) < feedPage
			if !last {
				// The page may end between two notices of one number. That number is for the next page.
				end := page[len(page)-1].Header().Seq
				cut := slices.IndexFunc(page, func(n *notice.Notice) bool { return n.Header().Seq == end })
				if cut > 0 {
					page = page[:cut]
				}
			}
			for _, n := range page {
				if !yield(n, nil) {
					return
				}
				seq = n.Header().Seq
			}
			if last {
				return
			}
		}
	}
}

// forks are the feeds that have two notices of one number. The proof must reach every member, though heads alone
// do not show who lacks a branch.
type forks struct {
	mu   sync.Mutex
	keys map[notice.PublicKey]bool // guarded by mu
}

// scan finds the forks among stored notices.
func (f *forks) scan(notices Notices, c *notice.Charter) error {
	for _, m := range c.Members {
		var last uint64
		for n, err := range feed(notices, m.Publishing, 0) {
			if err != nil {
				return err
			}
			if n.Header().Seq == last {
				f.mark(m.Publishing)
				break
			}
			last = n.Header().Seq
		}
	}
	return nil
}

// look finds a fork right after seq.
func (f *forks) look(notices Notices, key notice.PublicKey, seq uint64) error {
	pair, err := notices.After(key, seq, 2)
	if err == nil && len(pair) == 2 && pair[0].Header().Seq == pair[1].Header().Seq {
		f.mark(key)
	}
	return err
}

func (f *forks) mark(key notice.PublicKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = make(map[notice.PublicKey]bool)
	}
	f.keys[key] = true
}

func (f *forks) has(key notice.PublicKey) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[key]
}

func (f *forks) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.keys)
}
