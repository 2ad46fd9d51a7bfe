package invite

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
)

// keyOf is the public key that a name stands for in tests.
func keyOf(name string) notice.PublicKey { return notice.PublicKeyOf(privateOf(name)) }

func privateOf(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func rootOf(t testing.TB, name string) cid.Cid {
	sum, err := multihash.Sum([]byte(name), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(0x0200, sum)
}

func newCode(t testing.TB, name string, addresses ...string) *Code {
	t.Helper()
	var addrs []multiaddr.Multiaddr
	for _, a := range addresses {
		addrs = append(addrs, multiaddr.StringCast(a))
	}
	c, err := New(name, keyOf("hub"), rootOf(t, "root"), time.Unix(1<<31, 0), addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCodeIsReadAsItWasWritten(t *testing.T) {
	for _, addresses := range [][]string{
		{"/ip4/192.0.2.7/tcp/4101"},
		{"/ip6/2001:db8::1/udp/4101/quic-v1", "/dns4/chorus.example.org/tcp/4101", "/ip4/10.0.0.1/tcp/1"},
	} {
		want := newCode(t, "heart-hospital-of-the-north", addresses...)
		text := want.String()
		for _, spelled := range []string{
			text, strings.ToLower(text), strings.ReplaceAll(text, "-", " "), strings.ReplaceAll(text, "-", ""), " " + text + "\r\n",
			strings.NewReplacer("0", "O", "1", "l").Replace(text),
		} {
			got, err := Parse(spelled)
			if err != nil {
				t.Fatalf("%q: %v", spelled, err)
			}
			if got.String() != text || got.Name != want.Name || !got.Expires.Equal(want.Expires) || !bytes.Equal(got.Key(), want.Key()) || len(got.Addresses) != len(addresses) {
				t.Errorf("%q is read as %+v", spelled, got)
			}
			if !got.Binds(keyOf("hub"), rootOf(t, "root")) || got.Binds(keyOf("hub"), rootOf(t, "other")) || got.Binds(keyOf("other"), rootOf(t, "root")) {
				t.Error("the code binds another node or charter")
			}
		}
	}
}

func TestEveryCodeHasAKeyOfItsOwn(t *testing.T) {
	a, b := newCode(t, "a", "/ip4/192.0.2.7/tcp/4101"), newCode(t, "a", "/ip4/192.0.2.7/tcp/4101")
	if a.String() == b.String() || bytes.Equal(a.Key(), b.Key()) {
		t.Error("two codes are the same")
	}
}

func TestMistypedCodeIsToldAsSuch(t *testing.T) {
	text := newCode(t, "clinic", "/ip4/192.0.2.7/tcp/4101").String()
	wrong := []string{"", "-", "hello", text[1:], text[:len(text)-1], text + "0", text + "00000000", strings.Repeat("0", 10000)}
	for i := range text {
		if text[i] == '-' {
			continue
		}
		other := byte('7')
		if text[i] == other {
			other = '8'
		}
		wrong = append(wrong, text[:i]+string(other)+text[i+1:])
	}
	for i := range len(text) - 1 {
		if a, b := text[i], text[i+1]; a != b && a != '-' && b != '-' {
			wrong = append(wrong, text[:i]+string(b)+string(a)+text[i+2:])
		}
	}
	for _, w := range wrong {
		if _, err := Parse(w); !errors.Is(err, ErrMistyped) {
			t.Errorf("%q: %v", w, err)
		}
	}
}

func TestNewRefusesWhatACodeCannotSay(t *testing.T) {
	addr := func(s string) multiaddr.Multiaddr { return multiaddr.StringCast(s) }
	ok := addr("/ip4/192.0.2.7/tcp/4101")
	for what, try := range map[string]struct {
		name  string
		addrs []multiaddr.Multiaddr
	}{
		"name":           {"No Name", []multiaddr.Multiaddr{ok}},
		"no address":     {"clinic", nil},
		"four addresses": {"clinic", []multiaddr.Multiaddr{ok, ok, ok, ok}},
		"long address":   {"clinic", []multiaddr.Multiaddr{addr("/dns4/" + strings.Repeat("a", 100) + "/tcp/1")}},
		"named address":  {"clinic", []multiaddr.Multiaddr{addr("/ip4/192.0.2.7/tcp/4101/p2p/12D3KooWQ3fKxGW7NoPhgVWDaDC4ZTbNHMVsH95x34mRtYpSb8ZA")}},
	} {
		if c, err := New(try.name, keyOf("hub"), rootOf(t, "root"), time.Unix(1<<31, 0), try.addrs...); err == nil {
			t.Errorf("%s: made %s", what, c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(newCode(f, "clinic", "/ip4/192.0.2.7/tcp/4101").String())
	f.Add(newCode(f, "clinic", "/ip4/192.0.2.7/tcp/4101", "/dns4/example.org/udp/1/quic-v1").String())
	f.Add("0C9AQ-")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(c.String())
		if err != nil || again.String() != c.String() {
			t.Errorf("%q is read as %s, which is read as %v, %v", text, c, again, err)
		}
		if normal.Replace(strings.ToUpper(text)) != strings.ReplaceAll(c.String(), "-", "") {
			t.Errorf("%q is another spelling of %s", text, c)
		}
	})
}

// FuzzDecode has what a checksum guards read without it.
func FuzzDecode(f *testing.F) {
	b, err := crockford.DecodeString(strings.ReplaceAll(newCode(f, "clinic", "/ip4/192.0.2.7/tcp/4101").String(), "-", ""))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)-sumSize])
	f.Add([]byte{version})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decode(b)
		if err == nil {
			err = c.check()
		}
		if err != nil {
			return
		}
		again, err := Parse(c.String())
		if err != nil || again.String() != c.String() {
			t.Errorf("%x is read as %s, which is read as %v, %v", b, c, again, err)
		}
	})
}
