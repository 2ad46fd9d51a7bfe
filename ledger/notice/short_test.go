package notice

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// shorts are detached revocations in their short form.
func shorts(t testing.TB) (all [][]byte) {
	for _, r := range []*Revocation{
		{Offer: Identity([32]byte{7}), Reason: "patient withdrew"},
		{RevokedKey: PublicKeyOf(key(2))},
	} {
		r.Header = Header{Charter: Identity([32]byte{1}), Key: PublicKeyOf(key(1)), Time: time.Unix(1700000000, 0)}
		n, err := Sign(r, key(1))
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.Short()
		if err != nil {
			t.Fatal(err)
		}
		again, rest, err := ParseShort(append(bytes.Clone(b), "rest"...))
		if err != nil || again.CID != n.CID || !bytes.Equal(again.Envelope, n.Envelope) || string(rest) != "rest" {
			t.Fatalf("%v, rest %q, expected %s", err, rest, n.CID)
		}
		all = append(all, b)
	}
	return all
}

func TestShortFormIsTheWholeRevocation(t *testing.T) {
	for _, b := range shorts(t) {
		for i := range b {
			changed := bytes.Clone(b)
			changed[i] ^= 1
			if _, _, err := ParseShort(changed); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
				t.Errorf("byte %d changed: %v", i, err)
			}
			if _, _, err := ParseShort(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("cut after %d: %v", i, err)
			}
		}
	}
}

func TestOnlyADetachedRevocationHasAShortForm(t *testing.T) {
	for _, g := range golden {
		n, err := Sign(g.body, g.keys...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Short(); (err == nil) != (n.Kind == KindRevocation && n.Detached()) {
			t.Errorf("%s: %v", n.Kind, err)
		}
	}
}

// FuzzShort: what reads as a short form is written the same way.
func FuzzShort(f *testing.F) {
	for _, b := range shorts(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, rest, err := ParseShort(b)
		if err != nil {
			return
		}
		again, err := n.Short()
		if err != nil || !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Errorf("%x reads, and is written %x, %v", b, again, err)
		}
	})
}
