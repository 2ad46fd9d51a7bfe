package notice

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// FuzzParse: an envelope that parses has one identity and one spelling, and
// with any byte changed it is refused.
func FuzzParse(f *testing.F) {
	for i, g := range golden {
		n, err := Sign(g.body, g.keys...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(n.Envelope, uint(i*97), byte(1<<i))
	}
	f.Add([]byte(`{"payloadType":"","payload":"","signatures":[]}`), uint(3), byte(1))
	f.Fuzz(func(t *testing.T, envelope []byte, at uint, x byte) {
		n, err := Parse(envelope)
		if err != nil {
			return
		}
		checkParsed(t, n, envelope)
		if x == 0 {
			return
		}
		envelope = bytes.Clone(envelope)
		envelope[at%uint(len(envelope))] ^= x
		if m, err := Parse(envelope); err == nil {
			t.Errorf("byte %d changed, and Parse returned %s after %s", at, m.CID, n.CID)
		}
	})
}

// FuzzPayload goes past the signature: a member may sign anything.
func FuzzPayload(f *testing.F) {
	for _, g := range golden {
		f.Add(string(g.body.Kind()), payloadOf(f, g.body))
	}
	f.Fuzz(func(t *testing.T, kind, payload string) {
		pt := Kind(kind).payloadType()
		envelope, err := encode(&dsse.Envelope{
			PayloadType: pt,
			Payload:     base64.StdEncoding.EncodeToString([]byte(payload)),
			Signatures: []dsse.Signature{{
				KeyID: PublicKeyOf(key(1)).String(),
				Sig:   base64.StdEncoding.EncodeToString(ed25519.Sign(key(1), dsse.PAE(pt, []byte(payload)))),
			}},
		})
		if err != nil {
			return
		}
		n, err := Parse(envelope)
		if err != nil {
			return
		}
		checkParsed(t, n, envelope)
		again, err := Sign(n.Body, key(1))
		if err != nil {
			t.Fatalf("Sign refuses what Parse returned: %v", err)
		}
		if again.CID != n.CID || !bytes.Equal(again.Envelope, envelope) {
			t.Errorf("signed again\n%s\nwant\n%s", again.Envelope, envelope)
		}
	})
}

func checkParsed(t *testing.T, n *Notice, envelope []byte) {
	t.Helper()
	payload, err := encode(n.Body)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity(payload); err != nil || id != n.CID {
		t.Errorf("the body's identity is %s, the notice's %s", id, n.CID)
	}
	if !bytes.Equal(n.Envelope, envelope) {
		t.Error("the notice does not keep the bytes that were parsed")
	}
	if h := n.Header(); h != nil && (len(n.Signers()) != 1 || n.Signers()[0] != h.Key) {
		t.Errorf("signed by %s, in the feed of %s", n.Signers(), h.Key)
	}
	if len(n.Signers()) == 0 {
		t.Error("nobody signed it")
	}
}
