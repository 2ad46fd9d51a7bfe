package notice

import (
	"crypto/ed25519"
	"errors"
	"testing"
)

func TestCharterVersionsFollowByQuorumOfTheStewardsBefore(t *testing.T) {
	v1 := mustSign(t, aCharter(), key(1), key(2))
	next := func(change func(*Charter)) *Charter {
		c := aCharter()
		c.Version, c.Prev = 2, v1.CID
		// From now on gamma decides alone: version 2 must not use that yet.
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
		{"version 1 by a node key", aCharter(), byKeyID(1, 12), nil, ErrSignature},
		{"version 2 by the stewards before", next(nil), byKeyID(1, 2), v1, nil},
		{"version 2 by its own stewards", next(nil), byKeyID(3), v1, ErrSignature},
		{"version 2 by one of two", next(nil), byKeyID(2, 3), v1, ErrSignature},
		{"version 2 where version 1 must stand", next(nil), byKeyID(1, 2, 3), nil, ErrMalformed},
		{"version 3 after version 1", next(func(c *Charter) { c.Version = 3 }), byKeyID(1, 2), v1, ErrMalformed},
		{"version 2 of another charter", next(func(c *Charter) { c.Prev = ref("x") }), byKeyID(1, 2), v1, ErrMalformed},
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
