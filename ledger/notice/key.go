package notice

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"strings"

	"github.com/multiformats/go-multibase"
)

// PublicKey is an Ed25519 public key. Its text form, which JSON uses too, is a
// Multikey: "z" and the base58btc of 0xed 0x01 and the 32 bytes, so it begins
// with "z6Mk" (W3C Controlled Identifiers 1.0, section 2.2.2).
//
// A PublicKey is comparable and can be the key of a map.
type PublicKey [ed25519.PublicKeySize]byte

// multikeyPrefix is the multicodec ed25519-pub (0xed) as a varint.
const multikeyPrefix = "\xed\x01"

// ParsePublicKey reads the text form of a key. It refuses every spelling but
// the one that String writes; the error wraps ErrMalformed.
func ParsePublicKey(s string) (PublicKey, error) {
	var k PublicKey
	// The longest base58btc of 34 bytes has 47 digits.
	if len(s) > 48 {
		return k, fmt.Errorf("%w: a key of %d characters, want the form z6Mk…", ErrMalformed, len(s))
	}
	base, b, err := multibase.Decode(s)
	if err != nil || base != multibase.Base58BTC || len(b) != len(multikeyPrefix)+len(k) || string(b[:2]) != multikeyPrefix {
		return k, fmt.Errorf("%w: %q is not an Ed25519 key of the form z6Mk…", ErrMalformed, s)
	}
	copy(k[:], b[2:])
	if k.String() != s {
		return PublicKey{}, fmt.Errorf("%w: %q is not the usual spelling of that key", ErrMalformed, s)
	}
	return k, nil
}

// PublicKeyOf returns the public half of k.
func PublicKeyOf(k ed25519.PrivateKey) PublicKey {
	return PublicKey(k.Public().(ed25519.PublicKey))
}

// CompareKey orders keys by their text form, which is the order of a notice's
// lists. It is a function for slices.SortFunc.
func CompareKey(a, b PublicKey) int { return strings.Compare(a.String(), b.String()) }

// IsZero reports whether k is the zero value, which is nobody's key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// String returns the text form, 48 characters that begin with z6Mk.
func (k PublicKey) String() string {
	s, err := multibase.Encode(multibase.Base58BTC, append([]byte(multikeyPrefix), k[:]...))
	if err != nil { // only for a base that multibase does not know
		panic(err)
	}
	return s
}

// MarshalText returns the text form.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParsePublicKey.
func (k *PublicKey) UnmarshalText(b []byte) error {
	p, err := ParsePublicKey(string(b))
	if err != nil {
		return err
	}
	*k = p
	return nil
}

// LogValue is the short form for logs: the last eight characters, since the
// first four are the same for every key.
func (k PublicKey) LogValue() slog.Value {
	s := k.String()
	return slog.StringValue("z6Mk…" + s[len(s)-8:])
}
