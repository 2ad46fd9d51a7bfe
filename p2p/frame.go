package p2p

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"chorus/ledger/notice"
)

// The sync protocol. Both sides do the same at the same time. Each opens with a digest of what it has; if the two
// are equal, that was all. Otherwise each says what it has, asks the other one for what it lacks, page by page,
// answers what it is asked, and ends with done, or with later if it could not take everything. A frame is its kind
// (1), the length of its body (4) and the body. Integers are big-endian; a digest stands for a notice's CID.
//
//	open   milliseconds since 1970 by the sender's clock (8) digest of its have (32)
//	have   count (4) { key (32) seq (8) digest (32) rest (32) } …  feeds, sorted by key: notice.Frontier
//	       { id (32) } …                                          charters, proposals and detached notices
//	want   count (4) { key (32) seq (8) } …                       feeds, from above seq on
//	       { id (32) } …                                          of the other one's have
//	page   whole (1) { length (4) envelope } …                    the answer to a want: the first of what it asks for,
//	                                                              that first; whole is 1 if that was all
//	done   empty: what you have is durable here
//	later  empty: some of what you have is not
const (
	frameOpen  = 'o'
	frameHave  = 'h'
	frameWant  = 'w'
	framePage  = 'p'
	frameDone  = 'd'
	frameLater = 'l'

	openLen  = 8 + sha256.Size
	frontLen = 32 + 8 + 32 + 32
	feedLen  = 32 + 8
	idLen    = 32

	maxHave = 8 << 20 // bytes of a body: 80,000 feeds
	maxWant = 1 << 20
	maxPage = 8 << 20
	// pageSize is where a page ends, unless that is between two notices of one number. Pages are few enough
	// that a disk's sync after each of them takes little of the time, and small enough to hold two of.
	pageSize = 4 << 20

	frameTimeout = 2 * time.Minute
)

// maxBody returns the size of the largest body of a kind of frame.
func maxBody(kind byte) int {
	switch kind {
	case frameOpen:
		return openLen
	case frameHave:
		return maxHave
	case frameWant:
		return maxWant
	case framePage:
		return maxPage
	}
	return 0
}

// readFrame reads a frame and allocates nothing for one that is too large for its kind.
func readFrame(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, size := head[0], binary.BigEndian.Uint32(head[1:])
	if uint64(size) > uint64(maxBody(kind)) {
		return 0, nil, fmt.Errorf("frame %q of %d bytes: %w", kind, size, ErrTooLarge)
	}
	if size <= 1<<16 {
		body = make([]byte, size)
		_, err = io.ReadFull(r, body)
		return kind, body, err
	}
	// Who announces much must send it before this side has the memory in use.
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, r, int64(size))
	if err == io.EOF && n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return kind, buf.Bytes(), err
}

func writeFrame(w io.Writer, kind byte, body []byte) error {
	if len(body) > maxBody(kind) {
		return fmt.Errorf("frame %q of %d bytes: %w", kind, len(body), ErrTooLarge)
	}
	frame := make([]byte, 0, 5+len(body))
	frame = binary.BigEndian.AppendUint32(append(frame, kind), uint32(len(body)))
	_, err := w.Write(append(frame, body...))
	return err
}

// An opening is the body of an open frame.
type opening struct {
	time   time.Time
	digest [sha256.Size]byte
}

func (o opening) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(o.time.UnixMilli()))
	return append(b, o.digest[:]...)
}

func decodeOpening(b []byte) (opening, error) {
	if len(b) != openLen {
		return opening{}, fmt.Errorf("%w: open of %d bytes", ErrMalformed, len(b))
	}
	return opening{time.UnixMilli(int64(binary.BigEndian.Uint64(b))), [sha256.Size]byte(b[8:])}, nil
}

func (v inventory) encode() []byte {
	b := make([]byte, 0, 4+len(v.feeds)*frontLen+len(v.loose)*idLen)
	b = binary.BigEndian.AppendUint32(b, uint32(len(v.feeds)))
	for _, f := range v.feeds {
		b = append(b, f.Key[:]...)
		b = binary.BigEndian.AppendUint64(b, f.Seq)
		if f.Seq == 0 {
			b = append(b, make([]byte, sha256.Size)...)
		} else {
			b = append(b, notice.Digest(f.CID)...)
		}
		b = append(b, f.Rest[:]...)
	}
	for _, id := range v.loose {
		b = append(b, id[:]...)
	}
	return b
}

func decodeInventory(b []byte) (inventory, error) {
	feeds, ids, err := split(b, frontLen)
	if err != nil {
		return inventory{}, fmt.Errorf("have: %w", err)
	}
	v := inventory{feeds: make([]notice.Frontier, len(feeds)/frontLen), loose: decodeIDs(ids)}
	for i := range v.feeds {
		entry := feeds[i*frontLen:][:frontLen]
		f := &v.feeds[i]
		f.Key, f.Seq, f.Rest = notice.PublicKey(entry), binary.BigEndian.Uint64(entry[32:]), [sha256.Size]byte(entry[72:])
		digest := [sha256.Size]byte(entry[40:])
		if f.Seq > notice.MaxSeq || f.Seq == 0 && (digest != [sha256.Size]byte{} || f.Rest == [sha256.Size]byte{}) {
			return inventory{}, fmt.Errorf("%w: have: feed at %d", ErrMalformed, f.Seq)
		}
		if f.Seq > 0 {
			f.CID = notice.Identity(digest)
		}
		if i > 0 && bytes.Compare(entry[:32], feeds[(i-1)*frontLen:][:32]) <= 0 {
			return inventory{}, fmt.Errorf("%w: have: feeds out of order", ErrMalformed)
		}
	}
	return v, nil
}

// A want asks for notices: of feeds, after a number, and of those that stand in none.
type want struct {
	feeds []feedAfter
	loose []looseID
}

type feedAfter struct {
	key notice.PublicKey
	seq uint64
}

func (w want) empty() bool { return len(w.feeds) == 0 && len(w.loose) == 0 }

func (w want) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(w.feeds)))
	for _, f := range w.feeds {
		b = append(b, f.key[:]...)
		b = binary.BigEndian.AppendUint64(b, f.seq)
	}
	for _, id := range w.loose {
		b = append(b, id[:]...)
	}
	return b
}

func decodeWant(b []byte) (want, error) {
	feeds, ids, err := split(b, feedLen)
	if err != nil {
		return want{}, fmt.Errorf("want: %w", err)
	}
	w := want{feeds: make([]feedAfter, len(feeds)/feedLen), loose: decodeIDs(ids)}
	for i := range w.feeds {
		entry := feeds[i*feedLen:][:feedLen]
		w.feeds[i] = feedAfter{notice.PublicKey(entry), binary.BigEndian.Uint64(entry[32:])}
		if w.feeds[i].seq > notice.MaxSeq {
			return want{}, fmt.Errorf("%w: want: feed after %d", ErrMalformed, w.feeds[i].seq)
		}
	}
	return w, nil
}

// split cuts a body into the entries that its count announces, each of size bytes, and the IDs after them.
func split(b []byte, size int) (entries, ids []byte, err error) {
	if len(b) < 4 {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	count := uint64(binary.BigEndian.Uint32(b))
	if b = b[4:]; count*uint64(size) > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: %d entries in %d bytes", ErrMalformed, count, len(b))
	}
	entries, ids = b[:count*uint64(size)], b[count*uint64(size):]
	if len(ids)%idLen != 0 {
		return nil, nil, fmt.Errorf("%w: a part of an ID", ErrMalformed)
	}
	return entries, ids, nil
}

func decodeIDs(b []byte) []looseID {
	ids := make([]looseID, len(b)/idLen)
	for i := range ids {
		ids[i] = looseID(b[i*idLen:])
	}
	return ids
}

// A page is a body of a page frame while it is filled.
type page struct{ body []byte }

func newPage() *page { return &page{body: []byte{0}} }

// add takes an envelope in.
func (p *page) add(envelope []byte) {
	p.body = binary.BigEndian.AppendUint32(p.body, uint32(len(envelope)))
	p.body = append(p.body, envelope...)
}

// finish says that the page has all that it was asked for.
func (p *page) finish() { p.body[0] = 1 }

// decodePage returns the envelopes of a page, which share its memory.
func decodePage(b []byte) (envelopes [][]byte, whole bool, err error) {
	if len(b) == 0 || b[0] > 1 {
		return nil, false, fmt.Errorf("%w: page", ErrMalformed)
	}
	whole, b = b[0] == 1, b[1:]
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, false, fmt.Errorf("%w: page", ErrMalformed)
		}
		size := binary.BigEndian.Uint32(b)
		if uint64(size) > uint64(len(b)-4) {
			return nil, false, fmt.Errorf("%w: page", ErrMalformed)
		}
		envelopes = append(envelopes, b[4:4+size])
		b = b[4+size:]
	}
	return envelopes, whole, nil
}
