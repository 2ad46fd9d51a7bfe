// Package invite is how an organisation comes to be admitted: the code that one member's node gives out, and the
// conversation in which the guest who has it asks to be put on the charter.
//
// Begin with [New] on the inviting side and [Parse] on the other; [Ask] and [Answer] hold the conversation. The package keeps
// nothing, knows no network and decides nothing: who is admitted the stewards say, by signing a charter.
package invite

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multiaddr"
)

// Lifetime is how long an invitation stands.
const Lifetime = 72 * time.Hour

const (
	version     = 1
	secretSize  = 10
	bindingSize = 10
	sumSize     = 3
	group       = 5 // characters between two hyphens

	// MaxAddresses is how many addresses a code has room for, each of at most maxAddress bytes.
	MaxAddresses = 3
	maxAddress   = 80
	maxCode      = 1 + secretSize + bindingSize + 4 + 1 + 40 + 1 + MaxAddresses*(1+maxAddress) + sumSize
)

// Errors about codes.
var (
	ErrMistyped = errors.New("the code is not whole, or not as it was given")
	ErrExpired  = errors.New("the invitation has expired")
)

// crockford is Crockford's alphabet, which leaves out what is mistaken for something else.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// A Code is an invitation as one side gives it to the other. Whoever has it can ask to be admitted, once.
type Code struct {
	Name      string                // of the organisation that is invited, as the charter will have it
	Addresses []multiaddr.Multiaddr // of the inviting node, none of them naming it; 1 to MaxAddresses
	Expires   time.Time             // in whole minutes

	secret  [secretSize]byte
	binding [bindingSize]byte
}

// New returns the code of an invitation by the node with a key, into the consortium whose charter's version 1 is root.
func New(name string, node notice.PublicKey, root cid.Cid, expires time.Time, addresses ...multiaddr.Multiaddr) (*Code, error) {
	c := &Code{Name: name, Addresses: addresses, Expires: expires.UTC().Truncate(time.Minute), binding: bind(node, root)}
	rand.Read(c.secret[:])
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// bind ties a code to a node and a charter: 80 bits, for which nobody finds another pair.
func bind(node notice.PublicKey, root cid.Cid) (b [bindingSize]byte) {
	sum := sha256.Sum256(fmt.Appendf(nil, "chorus invitation 1\n%s\n%s\n", node, root))
	copy(b[:], sum[:])
	return b
}

// Binds reports whether the code is for this node and charter.
func (c *Code) Binds(node notice.PublicKey, root cid.Cid) bool { return c.binding == bind(node, root) }

// Key is the key that the guest connects with. Both sides make it of the code's secret, and it serves for nothing else.
func (c *Code) Key() ed25519.PrivateKey {
	seed, err := hkdf.Key(sha256.New, c.secret[:], nil, "chorus invitation 1", ed25519.SeedSize)
	if err != nil {
		panic(err) // of a size that HKDF cannot give
	}
	return ed25519.NewKeyFromSeed(seed)
}

func (c *Code) check() error {
	if err := notice.CheckName(c.Name); err != nil {
		return err
	}
	if len(c.Addresses) == 0 || len(c.Addresses) > MaxAddresses {
		return fmt.Errorf("%d addresses, want 1 to %d", len(c.Addresses), MaxAddresses)
	}
	for _, a := range c.Addresses {
		if n := len(a.Bytes()); n == 0 || n > maxAddress {
			return fmt.Errorf("address %s takes %d bytes, want at most %d", a, n, maxAddress)
		}
		if _, err := a.ValueForProtocol(multiaddr.P_P2P); err == nil {
			return fmt.Errorf("address %s names its node, which a code does in another way", a)
		}
	}
	if m := c.Expires.Unix() / 60; m < 0 || m > 1<<32-1 {
		return fmt.Errorf("expiry %v", c.Expires)
	}
	return nil
}

// String returns the code as it is given out: base32 in groups.
func (c *Code) String() string {
	b := append([]byte{version}, c.secret[:]...)
	b = append(b, c.binding[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(c.Expires.Unix()/60))
	b = append(append(b, byte(len(c.Name))), c.Name...)
	b = append(b, byte(len(c.Addresses)))
	for _, a := range c.Addresses {
		b = append(append(b, byte(len(a.Bytes()))), a.Bytes()...)
	}
	sum := sha256.Sum256(b)
	text := crockford.EncodeToString(append(b, sum[:sumSize]...))
	var out strings.Builder
	for i, r := range text {
		if i > 0 && i%group == 0 {
			out.WriteByte('-')
		}
		out.WriteRune(r)
	}
	return out.String()
}

// normal maps what people write to what String wrote: capitals, no gaps, and letters that look like digits.
var normal = strings.NewReplacer("-", "", " ", "", "\t", "", "\r", "", "\n", "", "O", "0", "I", "1", "L", "1")

// Parse reads a code. It takes small letters, other gaps and the letters o, i and l for the digits that they look like. The error wraps
// [ErrMistyped]. Whether it has expired is for whoever has a clock.
func Parse(text string) (*Code, error) {
	if len(text) > 4*maxCode {
		return nil, fmt.Errorf("%w: %d characters", ErrMistyped, len(text))
	}
	text = normal.Replace(strings.ToUpper(text))
	b, err := crockford.DecodeString(text)
	if err != nil || len(b) < sumSize || crockford.EncodeToString(b) != text {
		return nil, fmt.Errorf("%w: %d characters", ErrMistyped, len(text))
	}
	body, sum := b[:len(b)-sumSize], sha256.Sum256(b[:len(b)-sumSize])
	if !bytes.Equal(b[len(b)-sumSize:], sum[:sumSize]) {
		return nil, ErrMistyped
	}
	c, err := decode(body)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMistyped, err)
	}
	return c, nil
}

var errShort = errors.New("it ends early")

func decode(b []byte) (*Code, error) {
	c := new(Code)
	take := func(n int) []byte {
		if b == nil || n > len(b) {
			b = nil
			return make([]byte, n)
		}
		out := b[:n:n]
		b = b[n:]
		return out
	}
	if v := take(1)[0]; v != version {
		return nil, fmt.Errorf("it is of version %d, want %d", v, version)
	}
	copy(c.secret[:], take(secretSize))
	copy(c.binding[:], take(bindingSize))
	c.Expires = time.Unix(60*int64(binary.BigEndian.Uint32(take(4))), 0).UTC()
	c.Name = string(take(int(take(1)[0])))
	count := int(take(1)[0])
	if count > MaxAddresses {
		return nil, fmt.Errorf("%d addresses", count)
	}
	for range count {
		raw := take(int(take(1)[0]))
		if b == nil {
			return nil, errShort
		}
		a, err := multiaddr.NewMultiaddrBytes(raw)
		if err != nil {
			return nil, err
		}
		c.Addresses = append(c.Addresses, a)
	}
	if b == nil {
		return nil, errShort
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%d bytes more than there should be", len(b))
	}
	return c, nil
}
