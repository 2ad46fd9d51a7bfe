package notice

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestCharterVersionsFollowByQuorumOfTheStewardsBefore(t *testing.T) {
	v1 := mustSign(t, aCharter(), key(1), key(2))
	next := func(change func(*Charter)) *Charter {
		c := aCharter()
		c.Version, c.Prev = 2, v1.CID
		// From now on gamma decides alone: that needs those who decided before, and gamma.
		c.Stewards, c.Quorum = []string{"gamma"}, 1
		if change != nil {
			change(c)
		}
		return c
	}
	tests := []struct {
		name string
		body Body
		keys []ed25519.PrivateKey
		prev *Notice
		want error
	}{
		{"version 1 by its quorum", aCharter(), byKeyID(1, 2), nil, nil},
		{"version 1 by its quorum and more", aCharter(), byKeyID(1, 2, 3, 40), nil, nil},
		{"version 1 by one of two", aCharter(), byKeyID(1), nil, ErrSignature},
		{"version 1 by a member who is no steward", aCharter(), byKeyID(1, 3), nil, ErrSignature},
		{"version 1 by a recovery key", aCharter(), byKeyID(21, 2), nil, ErrSignature},
		{"version 1 by a node key", aCharter(), byKeyID(1, 12), nil, ErrSignature},
		{"version 2 by the stewards before and its own", next(nil), byKeyID(1, 2, 3), v1, nil},
		{"version 2 by the stewards before alone", next(nil), byKeyID(1, 2), v1, ErrSignature},
		{"version 2 by its own stewards alone", next(nil), byKeyID(3), v1, ErrSignature},
		{"version 2 by the same stewards", next(func(c *Charter) { c.Stewards, c.Quorum = []string{"alpha", "beta"}, 1 }), byKeyID(1, 2), v1, nil},
		{"version 2 by a quorum of its own that is less than the one before", next(func(c *Charter) { c.Stewards, c.Quorum = []string{"alpha"}, 1 }), byKeyID(1), v1, ErrSignature},
		{"version 2 by one of two", next(nil), byKeyID(2, 3), v1, ErrSignature},
		{"version 2 where version 1 must stand", next(nil), byKeyID(1, 2, 3), nil, ErrMalformed},
		{"version 3 after version 1", next(func(c *Charter) { c.Version = 3 }), byKeyID(1, 2, 3), v1, ErrMalformed},
		{"version 2 of another charter", next(func(c *Charter) { c.Prev = ref("x") }), byKeyID(1, 2, 3), v1, ErrMalformed},
		{"version 1 after version 1", aCharter(), byKeyID(1, 2), v1, ErrMalformed},
		{"an offer", anOffer(), byKeyID(1), nil, ErrMalformed},
		{"version 2 after an offer", next(nil), byKeyID(1, 2), mustSign(t, anOffer(), key(1)), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := mustSign(t, tt.body, tt.keys...)
			if err := VerifyCharter(n, tt.prev); !errors.Is(err, tt.want) {
				t.Errorf("VerifyCharter = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCosignGivesTheSameCharterAsSigningTogether(t *testing.T) {
	together := mustSign(t, aCharter(), key(1), key(2))
	for _, order := range [][]byte{{1, 2}, {2, 1}} {
		first := mustSign(t, aCharter(), key(order[0]))
		both, err := Cosign(first, key(order[1]))
		if err != nil {
			t.Fatal(err)
		}
		if string(both.Envelope) != string(together.Envelope) || both.CID != together.CID {
			t.Errorf("cosigned\n%s\nwant\n%s", both.Envelope, together.Envelope)
		}
		if len(first.Signers()) != 1 {
			t.Error("Cosign changed the notice that it was given")
		}
		if _, err := Cosign(both, key(1)); !errors.Is(err, ErrMalformed) {
			t.Errorf("signing twice: %v, want ErrMalformed", err)
		}
	}
	if _, err := Cosign(mustSign(t, anOffer(), key(1)), key(2)); !errors.Is(err, ErrSignature) {
		t.Errorf("cosigning an offer: %v, want ErrSignature", err)
	}
}

func TestMergedCharterHasTheSignaturesOfBothThatAreKept(t *testing.T) {
	want := mustSign(t, aCharter(), byKeyID(1, 2, 3)...)
	a, b := mustSign(t, aCharter(), byKeyID(1, 3)...), mustSign(t, aCharter(), byKeyID(2, 3, 40)...)
	keep := func(k PublicKey) bool { return k != PublicKeyOf(key(40)) }
	for _, pair := range [][2]*Notice{{a, b}, {b, a}, {want, want}} {
		got, err := Merge(pair[0], pair[1], keep)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Envelope) != string(want.Envelope) {
			t.Errorf("merged\n%s\nwant\n%s", got.Envelope, want.Envelope)
		}
	}
	other := aCharter()
	other.Name = "another"
	for _, n := range []*Notice{mustSign(t, other, key(1)), mustSign(t, anOffer(), key(1))} {
		if _, err := Merge(n, a, keep); !errors.Is(err, ErrMalformed) {
			t.Errorf("merging two notices: %v, want ErrMalformed", err)
		}
	}
	if _, err := Merge(a, b, func(PublicKey) bool { return false }); !errors.Is(err, ErrSignature) {
		t.Errorf("keeping no signature: %v, want ErrSignature", err)
	}
}

func TestCharterFindsMembersByNameAndKey(t *testing.T) {
	c := aCharter()
	if m, ok := c.Named("beta"); !ok || m.Publishing != PublicKeyOf(key(2)) {
		t.Errorf("Named(beta) = %v, %v", m, ok)
	}
	if _, ok := c.Named("delta"); ok {
		t.Error("there is no delta")
	}
	if m, ok := c.Member(PublicKeyOf(key(3))); !ok || m.Name != "gamma" || !m.Equal(c.Members[2]) || m.Equal(c.Members[0]) {
		t.Errorf("Member = %v, %v", m, ok)
	}
	if !c.Steward("alpha") || c.Steward("gamma") {
		t.Error("alpha is a steward and gamma is none")
	}
}

func TestACharterOfTheLargestSizeIsANotice(t *testing.T) {
	c := aCharter()
	c.Members, c.Stewards = nil, nil
	seed := make([]byte, ed25519.SeedSize)
	n := uint32(0)
	next := func() PublicKey {
		n++
		binary.BigEndian.PutUint32(seed, n)
		return PublicKeyOf(ed25519.NewKeyFromSeed(seed))
	}
	for i := range maxMembers {
		m := Member{Name: fmt.Sprintf("%040d", i), Publishing: next(), Node: next(), Recovery: next()}
		for range maxRevokers {
			m.Revokers = append(m.Revokers, next())
		}
		slices.SortFunc(m.Revokers, CompareKey)
		c.Members = append(c.Members, m)
	}
	c.Members[0].Publishing = PublicKeyOf(key(1))
	c.Stewards, c.Quorum = []string{c.Members[0].Name}, 1
	signed := mustSign(t, c, key(1))
	if len(signed.Envelope) <= MaxSize {
		t.Errorf("%d bytes: the test tests nothing", len(signed.Envelope))
	}
	c.Members = append(c.Members, Member{Name: "z", Publishing: next(), Node: next()})
	if _, err := Sign(c, key(1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a member too many: %v, want ErrMalformed", err)
	}
}
