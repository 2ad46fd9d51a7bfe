package simnet

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p"
)

// errReset reports a stream that broke, or that the other side reset.
var errReset = errors.New("stream reset")

// window is how many bytes may be under way in one direction of a stream.
const window = 256 << 10

// Open begins a stream to a connected node, whose engine serves the other end.
func (o *Node) Open(_ context.Context, node notice.PublicKey) (p2p.Stream, error) {
	n := o.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.reaches(o.key, node) {
		return nil, ErrUnreachable
	}
	l := n.link(o.key, node)
	side := 0
	if o.key == l.who[1] {
		side = 1
	}
	l.opened[side]++
	what, chance := n.of(l), n.chance(o.key, node, binary.BigEndian.AppendUint64(nil, l.opened[side])...)
	p := &pipe{carried: &n.carried, delay: what.Delay, left: -1, changed: make(chan struct{})}
	if chance.Float64() < what.Break {
		p.left = chance.Int64N(window)
	}
	l.streams[p] = struct{}{}
	p.done = func() {
		n.mu.Lock()
		delete(l.streams, p)
		n.mu.Unlock()
	}
	engine := n.nodes[node].engine
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		engine.Serve(o.key, &end{pipe: p, to: 0})
	}()
	return &end{pipe: p, to: 1}, nil
}

// A pipe is a stream between two nodes.
type pipe struct {
	carried *atomic.Int64
	delay   time.Duration
	done    func()

	mu      sync.Mutex
	ways    [2]way        // guarded by mu: what was written to each end
	left    int64         // guarded by mu: bytes until it breaks; below zero: it does not
	broken  bool          // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced at each change
}

// A way is one direction of a pipe.
type way struct {
	pieces []piece
	size   int  // of the pieces
	ended  bool // nothing more is written
	gone   bool // nobody reads
}

type piece struct {
	at   time.Time // when it arrives
	data []byte
}

// change tells those who wait. The caller holds mu.
func (p *pipe) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	p.change()
}

// An end is a node's end of a pipe.
type end struct {
	*pipe
	to int // the way that this end writes to; it reads the other one

	deadlines        sync.Mutex
	reading, writing time.Time // guarded by deadlines
}

// await returns when act reports that it is done, or with the error of a pipe that broke or of a deadline.
func (e *end) await(deadline time.Time, act func() (done bool, next time.Time)) error {
	for {
		e.mu.Lock()
		if e.broken {
			e.mu.Unlock()
			return errReset
		}
		done, next := act()
		changed := e.changed
		e.mu.Unlock()
		if done {
			return nil
		}
		if !deadline.IsZero() && (next.IsZero() || deadline.Before(next)) {
			next = deadline
		}
		var timer *time.Timer
		var rings <-chan time.Time
		if !next.IsZero() {
			timer = time.NewTimer(time.Until(next))
			rings = timer.C
		}
		select {
		case <-changed:
		case <-rings:
			if now := time.Now(); !deadline.IsZero() && !now.Before(deadline) {
				return os.ErrDeadlineExceeded
			}
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

func (e *end) Read(b []byte) (n int, err error) {
	e.deadlines.Lock()
	deadline := e.reading
	e.deadlines.Unlock()
	ended := false
	err = e.await(deadline, func() (bool, time.Time) {
		w := &e.ways[1-e.to]
		if len(w.pieces) == 0 {
			ended = w.ended
			return w.ended || len(b) == 0, time.Time{}
		}
		first := &w.pieces[0]
		if time.Now().Before(first.at) {
			return false, first.at
		}
		n = copy(b, first.data)
		if first.data = first.data[n:]; len(first.data) == 0 {
			w.pieces = w.pieces[1:]
		}
		w.size -= n
		e.change()
		return true, time.Time{}
	})
	if err == nil && ended {
		err = io.EOF
	}
	return n, err
}

func (e *end) Write(b []byte) (n int, err error) {
	e.deadlines.Lock()
	deadline := e.writing
	e.deadlines.Unlock()
	for n < len(b) {
		err := e.await(deadline, func() (bool, time.Time) {
			w := &e.ways[e.to]
			if w.ended || w.gone {
				e.broken = true
				e.change()
				return false, time.Time{}
			}
			some := min(len(b)-n, window-w.size)
			if some == 0 {
				return false, time.Time{}
			}
			if e.left >= 0 {
				if e.left -= int64(some); e.left < 0 {
					e.broken = true
					e.change()
					return false, time.Time{}
				}
			}
			w.pieces = append(w.pieces, piece{time.Now().Add(e.delay), append([]byte(nil), b[n:n+some]...)})
			w.size += some
			n += some
			e.carried.Add(int64(some))
			e.change()
			return true, time.Time{}
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (e *end) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ways[e.to].ended = true
	e.change()
	return nil
}

// Close ends both directions of this end; what it wrote still arrives.
func (e *end) Close() error {
	e.mu.Lock()
	e.ways[e.to].ended, e.ways[1-e.to].gone = true, true
	over := e.ways[0].ended && e.ways[1].ended
	e.change()
	e.mu.Unlock()
	if over {
		e.done()
	}
	return nil
}

func (e *end) Reset() error {
	e.reset()
	e.done()
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.deadlines.Lock()
	defer e.deadlines.Unlock()
	e.reading = t
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.deadlines.Lock()
	defer e.deadlines.Unlock()
	e.writing = t
	return nil
}
