package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"chorus/ledger/notice"
	"chorus/model/train"
)

// FuzzSheet goes past the sums of the paper: whoever can write a sheet can make them fit.
func FuzzSheet(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	signed := func(charter byte, r notice.Revocation) *notice.Notice {
		r.Header = notice.Header{Charter: notice.Identity([32]byte{charter}), Key: notice.PublicKeyOf(key), Time: time.Unix(1700000000, 0)}
		n, err := notice.Sign(&r, key)
		if err != nil {
			f.Fatal(err)
		}
		return n
	}
	all := signed(1, notice.Revocation{RevokedKey: notice.PublicKeyOf(key), Reason: "the key was stolen"})
	one := signed(1, notice.Revocation{Offer: notice.Identity([32]byte{7})})
	for _, notices := range [][]*notice.Notice{{all}, {one, all}, {one, signed(2, notice.Revocation{Offer: notice.Identity([32]byte{7})})}, nil} {
		b, err := sheet{key, notices}.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSheet(b)
		if err != nil {
			if !errors.Is(err, errPaper) && !errors.Is(err, notice.ErrMalformed) && !errors.Is(err, notice.ErrSignature) {
				t.Errorf("refused for %v", err)
			}
			return
		}
		for _, n := range s.notices {
			if n.Kind != notice.KindRevocation || !n.Detached() || n.Header().Charter != s.notices[0].Header().Charter {
				t.Errorf("%s is on the sheet", n.CID)
			}
		}
		if again, err := s.encode(); err != nil || !bytes.Equal(again, b) || len(s.notices) == 0 {
			t.Errorf("%x is read, and written %x, %v", b, again, err)
		}
	})
}

// FuzzMemberFiles holds that a file of another member's, or what training left beside an expert, is refused or read and written as the same.
func FuzzMemberFiles(f *testing.F) {
	key := func(b byte) notice.PublicKey {
		return notice.PublicKeyOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize)))
	}
	guarantee := train.Guarantee{Unit: "document", Sampler: train.Poisson, Rate: 0.01, Noise: 1, Clip: 0.1, Steps: 200, StartNoise: 8, Delta: 1e-6}
	var err error
	if guarantee.Epsilon, err = guarantee.Account(); err != nil {
		f.Fatal(err)
	}
	metrics := notice.Metrics{TrainTokens: 1000, HeldoutBytes: 100, AnchorBitsPerByte: 2, ExpertBitsPerByte: 1.5}
	half := *claim(guarantee)
	half.Epsilon /= 2
	for _, v := range []any{
		notice.Member{Name: "clinic", Publishing: key(1), Node: key(2), Recovery: key(3), Revokers: []notice.PublicKey{key(4)}},
		notice.Member{Name: "clinic", Publishing: key(1), Node: key(1)},
		notice.LeakLimits{},
		published{metrics, nil}, published{metrics, claim(guarantee)}, published{metrics, &half},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	path := filepath.Join(f.TempDir(), "file.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		readAgain(t, path, func() ([]notice.Member, error) { return readCards([]string{path}) }, func(cards []notice.Member) any { return cards[0] })
		readAgain(t, path, func() (notice.LeakLimits, error) { return readLimits(path) }, func(l notice.LeakLimits) any { return l })
		readAgain(t, path, func() (published, error) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return readPublished(b)
		}, func(p published) any { return p })
	})
}

// readAgain holds that what is read from a file, once it is written there as chorus writes it, is read as the same.
func readAgain[T any](t *testing.T, path string, read func() (T, error), written func(T) any) {
	v, err := read()
	if err != nil {
		return
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(written(v))
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Errorf("%+v is read, and not written: %v", v, err)
		return
	}
	if again, err := read(); err != nil || !reflect.DeepEqual(again, v) {
		t.Errorf("%+v is written as %s, which is read as %+v, %v", v, b, again, err)
	}
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
}
