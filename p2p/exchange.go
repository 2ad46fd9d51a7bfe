package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The blob protocol. Whoever opens a stream sends requests, one after another, and the other side answers each
// in order. A request is 45 bytes, and the length of every answer follows from the request and from a size that
// the asking side has checked, so that neither side allocates what the other one says. Integers are big-endian.
//
//	request  op (1) CID (36) first (4) count (4)     first and count are zero but for opChunks
//	have     status (1) size (8)
//	leaves   status (1) size (8) digest (32) …       one for each chunk, in order
//	dir      status (1) size (8) block (size)
//	chunks   { status (1) chunk } …                  count times, or until a status other than held
//
// What follows a status is there only if it says held.
const (
	blobProtocol protocol.ID = "/chorus/blob/1"

	opHave   = 'h'
	opLeaves = 'l'
	opDir    = 'd'
	opChunks = 'c'

	statusHeld    = 1
	statusMissing = 2

	requestLen = 1 + cidLen + 4 + 4
	maxBatch   = 8 // chunks in a request

	answerTimeout = 30 * time.Second // for an answer without chunks
	chunkTimeout  = time.Minute      // for one chunk, either way
	idleTimeout   = 2 * time.Minute  // between requests
)

type request struct {
	op           byte
	id           cid.Cid
	first, count uint32 // chunks
}

func (r request) encode() []byte {
	b := append(make([]byte, 0, requestLen), r.op)
	b = append(b, r.id.Bytes()...)
	b = binary.BigEndian.AppendUint32(b, r.first)
	return binary.BigEndian.AppendUint32(b, r.count)
}

// decodeRequest reads what encode wrote and nothing else.
func decodeRequest(b []byte) (request, error) {
	if len(b) != requestLen {
		return request{}, fmt.Errorf("%w: request of %d bytes", ErrMalformed, len(b))
	}
	id, err := cid.Cast(b[1 : 1+cidLen])
	if err != nil {
		return request{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := checkBlobCID(id); err != nil {
		return request{}, err
	}
	r := request{b[0], id, binary.BigEndian.Uint32(b[1+cidLen:]), binary.BigEndian.Uint32(b[1+cidLen+4:])}
	switch r.op {
	case opHave, opLeaves, opDir:
		if r.first != 0 || r.count != 0 {
			return request{}, fmt.Errorf("%w: request %q with a range", ErrMalformed, r.op)
		}
	case opChunks:
		if r.count == 0 || r.count > maxBatch {
			return request{}, fmt.Errorf("%w: request for %d chunks", ErrMalformed, r.count)
		}
	default:
		return request{}, fmt.Errorf("%w: request %q", ErrMalformed, r.op)
	}
	return r, nil
}

// chunkBuffers holds *[1 + chunkSize]byte: a status and a chunk.
var chunkBuffers = sync.Pool{New: func() any { return new([1 + chunkSize]byte) }}

// serveBlobs answers the requests on a stream that a member opened.
func (h *Host) serveBlobs(s network.Stream) {
	m := h.memberOf(s.Conn().RemotePeer())
	if m == nil || !h.enter() {
		s.Reset()
		return
	}
	defer h.wg.Done()
	defer context.AfterFunc(h.ctx, func() { s.Reset() })()
	var b [requestLen]byte
	for {
		s.SetReadDeadline(time.Now().Add(idleTimeout))
		if _, err := io.ReadFull(s, b[:]); err == io.EOF {
			s.Close()
			return
		} else if err != nil {
			s.Reset()
			return
		}
		r, err := decodeRequest(b[:])
		if err == nil && !h.gives(r.id) {
			_, err = s.Write([]byte{statusMissing})
		} else if err == nil {
			err = h.blobs.answer(s, r)
		}
		if err != nil {
			h.log.Debug("blob request ended", "member", m.Name, "error", err)
			s.Reset()
			return
		}
	}
}

// gives reports whether members may have a blob, if it is here: one that is on offer, the anchor, or a file of it. What is revoked may be here
// for a moment longer, or again without its offer, after the ledger was restored from a backup.
func (h *Host) gives(id cid.Cid) bool {
	if h.notices.Offered(id) {
		return true
	}
	charters := h.notices.Charters()
	if len(charters) == 0 {
		return false
	}
	anchor := charters[0].Body.(*notice.Charter).Anchor
	if id == anchor {
		return true
	}
	block, err := h.blobs.readDir(anchor)
	if err != nil {
		return false
	}
	files, err := parseDir(block)
	return err == nil && slices.ContainsFunc(files, func(f link) bool { return f.id == id })
}

// A deadlineWriter is the writing side of a stream.
type deadlineWriter interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}

// answer answers one request from the store.
func (s *BlobStore) answer(w deadlineWriter, r request) error {
	w.SetWriteDeadline(time.Now().Add(chunkTimeout))
	missing := func(err error) error {
		if !errors.Is(err, ErrMissing) {
			return err
		}
		_, err = w.Write([]byte{statusMissing})
		return err
	}
	size, err := s.stat(r.id)
	if err != nil {
		return missing(err)
	}
	head := binary.BigEndian.AppendUint64([]byte{statusHeld}, uint64(size))
	switch r.op {
	case opHave:
	case opDir:
		block, err := s.readDir(r.id)
		if err != nil {
			return missing(err)
		}
		head = append(head, block...)
	case opLeaves:
		leaves, err := s.leaves(r.id, size)
		if err != nil {
			return missing(err)
		}
		for _, d := range leaves {
			head = append(head, d[:]...)
		}
	case opChunks:
		return s.answerChunks(w, r, size, missing)
	}
	_, err = w.Write(head)
	return err
}

func (s *BlobStore) answerChunks(w deadlineWriter, r request, size int64, missing func(error) error) error {
	end := int64(r.first) + int64(r.count)
	if end > chunkCount(size) {
		return fmt.Errorf("%w: request for chunk %d of %d", ErrMalformed, end, chunkCount(size))
	}
	buf := chunkBuffers.Get().(*[1 + chunkSize]byte)
	defer chunkBuffers.Put(buf)
	buf[0] = statusHeld
	for i := int64(r.first); i < end; i++ {
		chunk, err := s.readChunk(r.id, size, i, buf[1:])
		if err != nil {
			return missing(err)
		}
		w.SetWriteDeadline(time.Now().Add(chunkTimeout))
		if _, err := w.Write(buf[:1+len(chunk)]); err != nil {
			return err
		}
	}
	return nil
}

// openBlobs opens a stream of the blob protocol to a connected member. It is reset when ctx ends or close is called.
func (h *Host) openBlobs(ctx context.Context, m *member) (s network.Stream, close func(), err error) {
	open, cancel := context.WithTimeout(network.WithNoDial(ctx, "only connected members are asked"), answerTimeout)
	defer cancel()
	s, err = h.host.NewStream(open, m.id, blobProtocol)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	return s, func() {
		stop()
		s.Reset()
	}, nil
}

// ask sends a request whose answer has a size and passes the reader of what follows it to body. The error is
// ErrMissing if the member does not hold the blob.
func (h *Host) ask(ctx context.Context, m *member, op byte, id cid.Cid, body func(size int64, r io.Reader) error) error {
	s, closeStream, err := h.openBlobs(ctx, m)
	if err != nil {
		return err
	}
	defer closeStream()
	s.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := s.Write(request{op: op, id: id}.encode()); err != nil {
		return err
	}
	size, err := readHead(s)
	if err != nil {
		return err
	}
	return body(size, s)
}

// readHead reads what an answer that has a size begins with.
func readHead(r io.Reader) (size int64, err error) {
	if err := readStatus(r); err != nil {
		return 0, err
	}
	return readSize(r)
}

func readStatus(r io.Reader) error {
	var status [1]byte
	if _, err := io.ReadFull(r, status[:]); err != nil {
		return err
	}
	switch status[0] {
	case statusHeld:
		return nil
	case statusMissing:
		return ErrMissing
	}
	return fmt.Errorf("%w: status %d", ErrMalformed, status[0])
}

func readSize(r io.Reader) (int64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint64(b[:])
	if size > maxTreeSize {
		return 0, fmt.Errorf("%w: blob of %d bytes", ErrMalformed, size)
	}
	return int64(size), nil
}

// readLeaves reads the digests of a blob of size bytes. Memory grows with what arrives.
func readLeaves(r io.Reader, size int64) ([]digest, error) {
	var leaves []digest
	var d digest
	for range chunkCount(size) {
		if _, err := io.ReadFull(r, d[:]); err != nil {
			return nil, err
		}
		leaves = append(leaves, d)
	}
	return leaves, nil
}

// checkLeaves returns leaves if id is the root of a file of size bytes that has them.
func checkLeaves(id cid.Cid, size int64, leaves []digest) ([]digest, error) {
	if !rootOf(size, leaves).id.Equals(id) {
		return nil, fmt.Errorf("chunk list of %s: %w", id, ErrCorrupt)
	}
	return leaves, nil
}

// readDirBlock reads a block of size bytes and checks it against id.
func readDirBlock(r io.Reader, id cid.Cid, size int64) ([]byte, error) {
	if size > maxDirBlock {
		return nil, fmt.Errorf("directory block of %d bytes: %w", size, ErrTooLarge)
	}
	block := make([]byte, size)
	if _, err := io.ReadFull(r, block); err != nil {
		return nil, err
	}
	if sha256.Sum256(block) != digestOf(id) {
		return nil, fmt.Errorf("directory %s: %w", id, ErrCorrupt)
	}
	return block, nil
}
