package notice

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
)

func TestWhatWasVerifiedVouchesForNoOtherSignature(t *testing.T) {
	good, other := mustSign(t, aLease(), key(1)), mustSign(t, anOffer(), key(1))
	var env, from map[string]any
	for e, n := range map[*map[string]any]*Notice{&env: good, &from: other} {
		if err := json.Unmarshal(n.Envelope, e); err != nil {
			t.Fatal(err)
		}
	}
	sig := func(e map[string]any) string { return e["signatures"].([]any)[0].(map[string]any)["sig"].(string) }
	forged := bytes.Replace(good.Envelope, []byte(sig(env)), []byte(sig(from)), 1)
	for range 2 { // the second time it has been seen, and refused
		if _, err := Parse(forged); !errors.Is(err, ErrSignature) {
			t.Errorf("Parse: %v", err)
		}
		if _, err := ParseAll([][]byte{good.Envelope, forged}); !errors.Is(err, ErrSignature) {
			t.Errorf("ParseAll: %v", err)
		}
	}
	one := mustSign(t, aCharter(), key(1))
	two, err := Cosign(one, key(2))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Notice{one, two, one} {
		if again, err := Parse(n.Envelope); err != nil || len(again.Signers()) != len(n.Signers()) || again.CID != n.CID {
			t.Errorf("a charter with %d signatures comes back with %v, error %v", len(n.Signers()), again, err)
		}
	}
}

func TestTheCacheForgetsWhatWasNotUsed(t *testing.T) {
	const limit, size = 1000, 100
	c := cache{limit: limit}
	at := func(i int) [sha256.Size]byte { return sha256.Sum256(fmt.Append(nil, i)) }
	used := &Notice{Envelope: make([]byte, size)}
	c.put(at(0), used)
	for i := 1; i <= 100; i++ {
		c.put(at(i), &Notice{Envelope: make([]byte, size)})
		if c.get(at(0)) != used {
			t.Fatalf("after %d others, one that is used all the time is gone", i)
		}
		if held := len(c.new) + len(c.old); held > 2*limit/size {
			t.Fatalf("after %d, %d are held", i, held)
		}
	}
	if c.get(at(1)) != nil {
		t.Error("one that nobody asked for since long is still there")
	}
}
