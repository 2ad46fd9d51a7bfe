package p2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
)

// A spy passes a stream on and counts the chunks that are asked for through it. Requests pass before, which may
// end the stream by returning false.
type spy struct {
	network.Stream
	before func(request) bool
	buf    []byte
}

func (s *spy) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.buf = append(s.buf, p[:n]...)
	for len(s.buf) >= requestLen {
		r, bad := decodeRequest(s.buf[:requestLen])
		if bad != nil || !s.before(r) {
			s.Stream.Reset()
			return 0, network.ErrReset
		}
		s.buf = s.buf[requestLen:]
	}
	return n, err
}

// spyOn has every request for blobs that a host gets pass before.
func spyOn(h *Host, before func(request) bool) {
	h.host.SetStreamHandler(blobProtocol, func(s network.Stream) { h.serveBlobs(&spy{Stream: s, before: before}) })
}

// A counter counts the chunks that were asked for.
type counter struct {
	mu     sync.Mutex
	chunks map[uint32]int
}

func (c *counter) before(r request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chunks == nil {
		c.chunks = make(map[uint32]int)
	}
	for i := range r.count {
		c.chunks[r.first+i]++
	}
	return true
}

// reset returns how many chunks were asked for and how often the one most asked for was, and begins again.
func (c *counter) reset() (chunks, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.chunks {
		most = max(most, n)
	}
	chunks, c.chunks = len(c.chunks), nil
	return chunks, most
}

// lie has a host serve what it holds as its bytes are after twist, which sees a whole answer of the given kind.
func lie(h *Host, op byte, twist func([]byte)) {
	h.host.SetStreamHandler(blobProtocol, func(s network.Stream) {
		defer s.Close()
		for {
			var b [requestLen]byte
			if _, err := io.ReadFull(s, b[:]); err != nil {
				return
			}
			r, err := decodeRequest(b[:])
			if err != nil {
				return
			}
			w := &recorder{}
			if err := h.blobs.answer(w, r); err != nil {
				return
			}
			if r.op == op {
				twist(w.Bytes())
			}
			s.Write(w.Bytes())
		}
	})
}

type recorder struct{ bytes.Buffer }

func (*recorder) SetWriteDeadline(time.Time) error { return nil }

// fetchers returns the started and connected hosts of members a, b and c. The last one logs to log.
func fetchers(t *testing.T) (a, b, c *Host, log *logBuffer) {
	t.Helper()
	co := found(t, "a", "b", "c")
	a, b = co.start(t, "a", newMemory()), co.start(t, "b", newMemory())
	config := co.config(t, "c", newMemory())
	config.Peers = append(a.Addrs(), b.Addrs()...)
	log = &logBuffer{}
	config.Log = slog.New(slog.NewTextHandler(log, nil))
	c = startHost(t, config)
	waitConnected(t, c, "a", "b")
	return a, b, c, log
}

func TestFetchBringsBlobsOfEverySize(t *testing.T) {
	a, b, c, _ := fetchers(t)
	for _, size := range []int64{0, 1, chunkSize, chunkSize + 1, 40*chunkSize + 5} {
		id := putPattern(t, a.blobs, size)
		putPattern(t, b.blobs, size)
		if names, err := c.Holders(t.Context(), id); err != nil || !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("holders: got %q, %v", names, err)
		}
		last := int64(-1)
		err := c.Fetch(t.Context(), id, size, func(done, total int64) {
			if done < last || done > total || total != size {
				t.Errorf("progress went from %d to %d of %d", last, done, total)
			}
			last = done
		})
		if err != nil || last != size {
			t.Fatalf("fetch of %d bytes: %v, progress ended at %d", size, err, last)
		}
		checkPattern(t, c.blobs, id, size)
		if names := entries(t, c.blobs); slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, partialExt) }) {
			t.Errorf("left over: %q", names)
		}
		if names, err := a.Holders(t.Context(), id); err != nil || !slices.Contains(names, "c") {
			t.Errorf("what was fetched is not served: holders %q, %v", names, err)
		}
	}
}

func TestFlippedBitIsRefusedAndFetchedElsewhere(t *testing.T) {
	a, b, c, log := fetchers(t)
	const size = 64*chunkSize + 5 // more than one holder is asked for at once
	id := putPattern(t, a.blobs, size)
	putPattern(t, b.blobs, size)
	lie(a, opChunks, func(answer []byte) { answer[len(answer)/2] ^= 1 })
	if err := c.Fetch(t.Context(), id, size, nil); err != nil {
		t.Fatal(err)
	}
	checkPattern(t, c.blobs, id, size)
	if text := log.String(); !strings.Contains(text, "member=a") || strings.Contains(text, "member=b") {
		t.Errorf("the log does not name a alone:\n%s", text)
	}
}

func TestLiarsAreNamed(t *testing.T) {
	const size = 20*chunkSize + 5
	for what, test := range map[string]struct {
		op    byte
		twist func([]byte)
		want  error
	}{
		"a flipped bit":            {opChunks, func(b []byte) { b[len(b)-1] ^= 1 }, ErrCorrupt},
		"a flipped bit in a leaf":  {opLeaves, func(b []byte) { b[len(b)-1] ^= 1 }, ErrCorrupt},
		"leaves of another order":  {opLeaves, func(b []byte) { copy(b[9:], b[41:73]) }, ErrCorrupt},
		"a larger size":            {opHave, func(b []byte) { binary.BigEndian.PutUint64(b[1:], size+1) }, ErrSize},
		"a huge size":              {opHave, func(b []byte) { binary.BigEndian.PutUint64(b[1:], 1<<63) }, nil},
		"another size with leaves": {opLeaves, func(b []byte) { binary.BigEndian.PutUint64(b[1:], size-1) }, ErrSize},
		"an unknown status":        {opChunks, func(b []byte) { b[0] = 77 }, ErrMalformed},
	} {
		t.Run(what, func(t *testing.T) {
			a, _, c, _ := fetchers(t)
			id := putPattern(t, a.blobs, size)
			lie(a, test.op, test.twist)
			err := c.Fetch(t.Context(), id, size, nil)
			if !errors.Is(err, ErrNoHolder) || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want ErrNoHolder and %v", err, test.want)
			}
			var who *MemberError
			if test.want != nil && (!errors.As(err, &who) || who.Member != "a") {
				t.Errorf("got %v, want a named", err)
			}
			if c.blobs.Has(id) {
				t.Error("the blob was accepted")
			}
		})
	}
}

func TestFetchRefusesSizesThatCannotBe(t *testing.T) {
	_, _, c, _ := fetchers(t)
	small, large := newCID(cid.Raw, digest{}), newCID(cid.DagProtobuf, digest{})
	for _, test := range []struct {
		id   cid.Cid
		size int64
	}{{small, -1}, {small, chunkSize + 1}, {large, chunkSize}, {large, 1 << 62}} {
		if err := c.Fetch(t.Context(), test.id, test.size, nil); !errors.Is(err, ErrSize) {
			t.Errorf("%s of %d bytes: got %v, want ErrSize", test.id, test.size, err)
		}
	}
	id := putPattern(t, c.blobs, 3)
	if err := c.Fetch(t.Context(), id, 4, nil); !errors.Is(err, ErrSize) {
		t.Errorf("held blob: got %v, want ErrSize", err)
	}
}

func TestDeletedBlobIsNotServed(t *testing.T) {
	a, _, c, _ := fetchers(t)
	const size = 3 * chunkSize
	id := putPattern(t, a.blobs, size)
	if err := a.blobs.Delete(id); err != nil {
		t.Fatal(err)
	}
	if err := c.Fetch(t.Context(), id, size, nil); !errors.Is(err, ErrNoHolder) {
		t.Errorf("got %v, want ErrNoHolder", err)
	}
	if names, err := c.Holders(t.Context(), id); err != nil || len(names) > 0 {
		t.Errorf("holders: got %q, %v, want none", names, err)
	}
}

func TestWithdrawnBlobIsNotServedThoughItIsThere(t *testing.T) {
	a, _, c, _ := fetchers(t)
	const size = 3 * chunkSize
	id := putPattern(t, a.blobs, size)
	if names, err := c.Holders(t.Context(), id); err != nil || len(names) != 1 {
		t.Errorf("before: holders %q, %v, want one", names, err)
	}
	m := a.notices.(*memory)
	m.mu.Lock()
	m.withdrawn = map[cid.Cid]bool{id: true}
	m.mu.Unlock()
	if err := c.Fetch(t.Context(), id, size, nil); !errors.Is(err, ErrNoHolder) {
		t.Errorf("got %v, want ErrNoHolder", err)
	}
	if names, err := c.Holders(t.Context(), id); err != nil || len(names) > 0 {
		t.Errorf("after: holders %q, %v, want none", names, err)
	}
}

func TestDeleteEndsATransferUnderWay(t *testing.T) {
	a, _, c, _ := fetchers(t)
	const size = 100 * chunkSize
	id := putPattern(t, a.blobs, size)
	var once sync.Once
	last := int64(0)
	err := c.Fetch(t.Context(), id, size, func(done, _ int64) {
		if done > 0 {
			once.Do(func() {
				if err := a.blobs.Delete(id); err != nil {
					t.Error(err)
				}
			})
		}
		last = done
	})
	if !errors.Is(err, ErrNoHolder) || !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want ErrNoHolder because of ErrMissing", err)
	}
	// What was in the streams' windows when the blob went may still arrive, and no more.
	if last >= size {
		t.Errorf("%d of %d bytes arrived", last, size)
	}
}

func TestDeleteEndsAFetchUnderWay(t *testing.T) {
	a, _, c, _ := fetchers(t)
	const size = 100 * chunkSize
	id := putPattern(t, a.blobs, size)
	deleted := make(chan error, 1)
	var once sync.Once
	err := c.Fetch(t.Context(), id, size, func(done, _ int64) {
		once.Do(func() { go func() { deleted <- c.blobs.Delete(id) }() })
	})
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if err != nil && !errors.Is(err, ErrDeleted) {
		t.Errorf("got %v, want ErrDeleted", err)
	}
	if names := entries(t, c.blobs); len(names) > 0 {
		t.Errorf("after delete the store has %q", names)
	}
}

func TestInterruptedFetchResumes(t *testing.T) {
	a, _, c, _ := fetchers(t)
	const chunks = 60
	const size = chunks * chunkSize
	id := putPattern(t, a.blobs, size)
	var asked counter
	spyOn(a, asked.before)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Fetch(ctx, id, size, func(done, _ int64) {
		if done >= 10*chunkSize {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	asked.reset()

	// A new store on the same folder is what a new process finds. One chunk has rotten meanwhile.
	c.blobs, err = NewBlobStore(c.blobs.dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(c.blobs.Path(id)+partialExt, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := c.blobs.leaves(id, size)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.blobs.openPartial(t.Context(), id, size, leaves)
	if err != nil {
		t.Fatal(err)
	}
	p.file.Close()
	rotten := slices.Index(p.have, true)
	if _, err := f.WriteAt([]byte{0xff, 0, 0xff}, int64(rotten)*chunkSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	missing := 1
	for _, have := range p.have {
		if !have {
			missing++
		}
	}
	if missing > chunks-9 {
		t.Fatalf("%d of %d chunks are missing after at least 10 arrived", missing, chunks)
	}
	first := int64(-1)
	err = c.Fetch(t.Context(), id, size, func(done, _ int64) {
		if first < 0 {
			first = done
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	checkPattern(t, c.blobs, id, size)
	if want := int64(chunks-missing) * chunkSize; first != want {
		t.Errorf("progress began at %d, want %d", first, want)
	}
	if n, most := asked.reset(); n != missing || most != 1 {
		t.Errorf("%d chunks were asked for, one of them %d times; %d were missing", n, most, missing)
	}
}

func TestHolderThatLeavesMidwayIsReplaced(t *testing.T) {
	a, b, c, _ := fetchers(t)
	const size = 64 * chunkSize
	id := putPattern(t, a.blobs, size)
	putPattern(t, b.blobs, size)
	spyOn(a, func(r request) bool { return r.op != opChunks || r.first < 10 })
	if err := c.Fetch(t.Context(), id, size, nil); err != nil {
		t.Fatal(err)
	}
	checkPattern(t, c.blobs, id, size)
}

func TestConcurrentFetchesShareOneTransfer(t *testing.T) {
	a, _, c, _ := fetchers(t)
	const size = 30 * chunkSize
	id := putPattern(t, a.blobs, size)
	var asked counter
	spyOn(a, asked.before)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := c.Fetch(t.Context(), id, size, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, most := asked.reset(); n != 30 || most != 1 {
		t.Errorf("%d chunks were asked for, one of them %d times, want each of 30 once", n, most)
	}
}

func TestFetchDirLaysOutTheFolder(t *testing.T) {
	a, _, c, _ := fetchers(t)
	src := t.TempDir()
	sizes := map[string]int64{"config.json": 10, "model.safetensors": 3*chunkSize + 5, "tokenizer.json": chunkSize + 1}
	var total int64
	for name, size := range sizes {
		writePattern(t, filepath.Join(src, name), size)
		total += size
	}
	id, err := a.blobs.PutDir(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "anchor")
	if err := c.FetchDir(t.Context(), id, total-1, dest, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: got %v, want ErrTooLarge", err)
	}
	if err := os.Mkdir(dest+partialExt, 0o755); err != nil { // left by a kill
		t.Fatal(err)
	}
	var last int64
	err = c.FetchDir(t.Context(), id, total, dest, func(done, all int64) {
		if done < last || all != total {
			t.Errorf("progress went from %d to %d of %d, of %d", last, done, all, total)
		}
		last = done
	})
	if err != nil || last != total {
		t.Fatalf("%v, progress ended at %d of %d", err, last, total)
	}
	again, err := newStore(t).PutDir(t.Context(), dest)
	if err != nil || again != id {
		t.Errorf("the folder is %s, %v, want %s", again, err, id)
	}
	if err := c.FetchDir(t.Context(), id, total, dest, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto an existing folder: got %v, want ErrExist", err)
	}
	if names, err := a.Holders(t.Context(), id); err != nil || !slices.Equal(names, []string{"c"}) {
		t.Errorf("holders of the directory: got %q, %v, want c", names, err)
	}
	elsewhere := filepath.Join(t.TempDir(), "anchor")
	if err := c.FetchDir(t.Context(), id, total, elsewhere, nil); err != nil {
		t.Errorf("from the own store: %v", err)
	}
}

func TestFalseDirectoryBlockIsRefused(t *testing.T) {
	a, _, c, _ := fetchers(t)
	id, err := a.blobs.PutDir(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		twist func([]byte)
		want  error
	}{
		"a flipped bit":  {func(b []byte) { b[len(b)-1] ^= 1 }, ErrCorrupt},
		"a size too big": {func(b []byte) { binary.BigEndian.PutUint64(b[1:], maxDirBlock+1) }, ErrTooLarge},
	} {
		lie(a, opDir, test.twist)
		dest := filepath.Join(t.TempDir(), "anchor")
		err := c.FetchDir(t.Context(), id, 1<<20, dest, nil)
		var who *MemberError
		if !errors.Is(err, test.want) || !errors.As(err, &who) || who.Member != "a" {
			t.Errorf("%s: got %v, want %v of a", what, err, test.want)
		}
		if _, err := os.Stat(dest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder is there: %v", what, err)
		}
	}
}

func TestBlobRequestsOutOfBoundsEndTheStream(t *testing.T) {
	a, _, c, _ := fetchers(t)
	id := putPattern(t, a.blobs, 2*chunkSize)
	good := request{opChunks, id, 0, 1}.encode()
	for what, r := range map[string][]byte{
		"chunks beyond the end":  request{opChunks, id, 1, 2}.encode(),
		"chunks far beyond":      request{opChunks, id, 1<<32 - 1, 8}.encode(),
		"too many chunks":        request{opChunks, id, 0, maxBatch + 1}.encode(),
		"no chunks":              request{opChunks, id, 0, 0}.encode(),
		"a range where none is":  request{opHave, id, 0, 1}.encode(),
		"an unknown request":     request{'x', id, 0, 0}.encode(),
		"a CID of another codec": append([]byte{opHave, 1, 0x51}, good[3:]...),
	} {
		s, closeStream, err := c.openBlobs(t.Context(), c.memberOf(a.host.ID()))
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := s.Write(r); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, s); !errors.Is(err, network.ErrReset) || n > 0 {
			t.Errorf("%s: got %d bytes, %v, want a reset", what, n, err)
		}
		closeStream()
	}
}

func TestOversizedAnswersAreRefusedBeforeAllocation(t *testing.T) {
	size := binary.BigEndian.AppendUint64(nil, 1<<62)
	if _, err := readSize(bytes.NewReader(size)); !errors.Is(err, ErrMalformed) {
		t.Errorf("size: got %v, want ErrMalformed", err)
	}
	if _, err := readDirBlock(iotest.ErrReader(errors.New("was read")), newCID(cid.DagProtobuf, digest{}), 1<<40); !errors.Is(err, ErrTooLarge) {
		t.Errorf("directory: got %v, want ErrTooLarge", err)
	}
	// A list of 2³⁰ digests that never comes must not be allocated for.
	if n := allocated(func() {
		if _, err := readLeaves(bytes.NewReader(nil), maxTreeSize); err == nil {
			t.Error("read digests from nothing")
		}
	}); n > 64<<10 {
		t.Errorf("%d bytes were allocated for digests", n)
	}
}

// BenchmarkFetch moves 256 MiB over loopback (TCP, encrypted), verified and synced to disk, both ends in one process.
func BenchmarkFetch(b *testing.B) {
	const size = 256 << 20
	for _, holders := range []int{1, 3} {
		b.Run(fmt.Sprintf("holders=%d", holders), func(b *testing.B) {
			c := found(b, "a", "b", "c", "d")
			var peers []*Host
			var id cid.Cid
			names := []string{"a", "b", "c"}[:holders]
			for _, name := range names {
				h := c.start(b, name, newMemory())
				id = putPattern(b, h.blobs, size)
				peers = append(peers, h)
			}
			d := c.start(b, "d", newMemory(), peers...)
			waitConnected(b, d, names...)
			b.SetBytes(size)
			for b.Loop() {
				if err := d.Fetch(b.Context(), id, size, nil); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := d.blobs.Delete(id); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
