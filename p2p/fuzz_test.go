package p2p

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
)

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{frameDone, 0, 0, 0, 0})
	f.Add([]byte{framePage, 0, 0, 0, 2, 'a', 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, kind, body); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("accepted a frame that encodes otherwise: %v", err)
		}
	})
}

func FuzzDecodeInventory(f *testing.F) {
	c := found(f, "a", "b")
	f.Add(inventoryOf(newMemory(c.says(f, "a", ""), c.says(f, "b", "")).of(c)).encode())
	f.Add(inventory{}.encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeInventory(b)
		if err == nil && !bytes.Equal(v.encode(), b) {
			t.Error("accepted an inventory that encodes otherwise")
		}
	})
}

func FuzzDecodeWant(f *testing.F) {
	f.Add(want{feeds: []feedAfter{{notice.PublicKey{1}, 7}}, loose: []looseID{{2}}}.encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decodeWant(b)
		if err == nil && !bytes.Equal(w.encode(), b) {
			t.Error("accepted a want that encodes otherwise")
		}
	})
}

func FuzzDecodeOpening(f *testing.F) {
	f.Add(opening{time.Unix(1700000000, 0), [32]byte{1}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOpening(b)
		if err == nil && !bytes.Equal(o.encode(), b) {
			t.Error("accepted an opening that encodes otherwise")
		}
	})
}

func FuzzDecodePage(f *testing.F) {
	c := found(f, "a")
	p := newPage()
	p.add(c.says(f, "a", "one").Envelope)
	p.add(c.says(f, "a", "two").Envelope)
	f.Add(p.body)
	f.Add([]byte{0, 0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		envelopes, whole, err := decodePage(b)
		if err != nil {
			return
		}
		again := newPage()
		for _, e := range envelopes {
			again.add(e)
		}
		if whole {
			again.finish()
		}
		if !bytes.Equal(again.body, b) {
			t.Error("accepted a page that encodes otherwise")
		}
	})
}

func FuzzDecodeAddresses(f *testing.F) {
	seed, err := json.Marshal([]memberAddrs{{notice.PublicKeyOf(privateOf("a")), []string{"/ip4/127.0.0.1/tcp/4001"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		told, err := decodeAddresses(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(told)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeAddresses(again); err != nil {
			t.Errorf("accepted addresses, but not their encoding: %v", err)
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	id := rootOf(1, []digest{{}}).id
	f.Add(request{op: opHave, id: id}.encode())
	f.Add(request{opChunks, id, 3, maxBatch}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRequest(b)
		if err == nil && !bytes.Equal(r.encode(), b) {
			t.Error("accepted a request that encodes otherwise")
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint64([]byte{statusHeld}, 3*chunkSize))
	f.Add([]byte{statusMissing})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		size, err := readHead(r)
		if err != nil {
			return
		}
		if size < 0 || size > maxTreeSize {
			t.Errorf("accepted a size of %d", size)
		}
		leaves, err := readLeaves(r, size)
		if err == nil && int64(len(leaves)) != chunkCount(size) {
			t.Errorf("%d leaves for %d bytes", len(leaves), size)
		}
	})
}

// FuzzReadDir holds that of what a holder sends as a directory, only the block that was asked for is read, and none of a size that it may not have.
func FuzzReadDir(f *testing.F) {
	leaf := rootOf(1, []digest{{}})
	leaf.name = "config.json"
	block, _, err := encodeDir([]link{leaf})
	if err != nil {
		f.Fatal(err)
	}
	answer := func(size int, block []byte) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{statusHeld}, uint64(size)), block...)
	}
	f.Add(block, answer(len(block), block))
	f.Add(block, answer(len(block)-1, block))
	f.Add(block, answer(len(block)+1, block))
	f.Add(block, answer(maxDirBlock+1, block))
	f.Add([]byte{}, answer(0, nil))
	f.Add(block, []byte{statusMissing})
	f.Fuzz(func(t *testing.T, block, b []byte) {
		r := bytes.NewReader(b)
		size, err := readHead(r)
		if err != nil {
			return
		}
		got, err := readDirBlock(r, newCID(cid.DagProtobuf, sha256.Sum256(block)), size)
		switch {
		case size > maxDirBlock && (!errors.Is(err, ErrTooLarge) || r.Len() != len(b)-9):
			t.Errorf("a block of %d bytes: %v, and %d bytes were read", size, err, len(b)-9-r.Len())
		case err == nil && !bytes.Equal(got, block):
			t.Errorf("%x is read as the directory with the block %x", got, block)
		case err != nil && bytes.Equal(b[9:], block) && size == int64(len(block)) && size <= maxDirBlock:
			t.Errorf("the block %x is refused: %v", block, err)
		}
	})
}
