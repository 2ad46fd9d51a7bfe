package p2p

import (
	"bytes"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
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
