package notice

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

var update = flag.Bool("update", false, "rewrite the golden envelopes")

// key returns the private key with seed b b b ….
func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func sum(codec uint64, s string) cid.Cid {
	h, err := multihash.Sum([]byte(s), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, h)
}

func ref(s string) cid.Cid  { return sum(codecJSON, s) }
func blob(s string) cid.Cid { return sum(cid.DagProtobuf, s) }

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func header(seq uint64) Header {
	h := Header{Charter: ref("charter"), Key: PublicKeyOf(key(1)), Seq: seq, Time: day}
	if seq > 1 {
		h.Prev = ref("prev")
	}
	return h
}

func sorted(ids ...cid.Cid) []cid.Cid {
	slices.SortFunc(ids, CompareCID)
	return ids
}

// sortedKeys returns public keys in the order of a list.
func sortedKeys(seeds ...byte) []PublicKey {
	var keys []PublicKey
	for _, s := range seeds {
		keys = append(keys, PublicKeyOf(key(s)))
	}
	slices.SortFunc(keys, CompareKey)
	return keys
}

// The bodies that the tests begin with. Each call makes new ones.
func anOffer() *Offer {
	return &Offer{
		Header: header(1), Blob: blob("expert"), Size: 4096, Anchor: blob("anchor"),
		Domain: "court rulings <de>", Licence: "CC-BY-4.0", TopK: 2, Bias: true,
		Metrics: Metrics{TrainTokens: 1e6, HeldoutBytes: 2048, AnchorBitsPerByte: 1.25, ExpertBitsPerByte: 0.875},
	}
}

func aPrivateOffer() *Offer {
	o := anOffer()
	o.Privacy = &Privacy{
		Unit: "field:patient_id", Sampler: "poisson", Rate: 0.0625, Noise: 1.5, Clip: 0.1, Steps: 200, StartNoise: 20, Delta: 1e-6, Epsilon: 2.997,
	}
	return o
}

func aLease() *Lease {
	return &Lease{
		Header: header(2), Offers: sorted(ref("a"), ref("b")),
		Heads:    []Head{{Key: PublicKeyOf(key(9)), Seq: 3, CID: ref("head")}},
		NotAfter: day.Add(24 * time.Hour),
	}
}

func aRevocation() *Revocation {
	return &Revocation{Header: header(3), Offer: ref("a"), Reason: "the contract ended"}
}

func aDetachedRevocation() *Revocation {
	return &Revocation{Header: header(0), RevokedKey: PublicKeyOf(key(12)), Reason: "put away in March"}
}

func aVote() *Revocation {
	return &Revocation{Header: header(3), Member: "beta", All: true, Through: Through{Key: PublicKeyOf(key(2)), Seq: 7}, Reason: "left the association"}
}

func aDelegation() *Delegation {
	return &Delegation{Header: header(2), Delegate: PublicKeyOf(key(9)), Revoke: true, Renew: true, Offers: sorted(ref("a"), ref("b")), NotAfter: day.Add(24 * time.Hour)}
}

func aRotation() *Rotation {
	r := NewRotation(ref("charter"), PublicKeyOf(key(1)), RotatePublishing, PublicKeyOf(key(31)), key(32))
	r.Header = header(2)
	return r
}

func aStatement() *Statement {
	drops := []Drop{{Revocation: ref("r"), Offer: ref("a"), Time: day}, {Revocation: ref("r"), Offer: ref("b"), Time: day.Add(-time.Hour)}, {Revocation: ref("s"), Time: day}}
	slices.SortFunc(drops, CompareDrop)
	return &Statement{Header: header(1), Dropped: drops}
}

func anExportStatement() *Statement {
	exports := []Export{{Offer: ref("a"), Time: day}, {Offer: ref("b"), Time: day.Add(-time.Hour)}}
	slices.SortFunc(exports, CompareExport)
	return &Statement{Header: header(1), Exported: exports}
}

func aCharter() *Charter {
	return &Charter{
		Name: "Gerichte", Version: 1, Anchor: blob("anchor"),
		Members: []Member{
			{Name: "alpha", Publishing: PublicKeyOf(key(1)), Node: PublicKeyOf(key(11)), Recovery: PublicKeyOf(key(21)), Revokers: sortedKeys(41, 42)},
			{Name: "beta", Publishing: PublicKeyOf(key(2)), Node: PublicKeyOf(key(12))},
			{Name: "gamma", Publishing: PublicKeyOf(key(3)), Node: PublicKeyOf(key(13))},
		},
		Stewards: []string{"alpha", "beta"}, Quorum: 2,
		LeaseSeconds: 86400, LeaseCeilingSeconds: 604800, MaxBlobBytes: 1 << 32, OffersPerDay: 20,
	}
}

func mustSign(t testing.TB, b Body, keys ...ed25519.PrivateKey) *Notice {
	t.Helper()
	n, err := Sign(b, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The identities below are the format: a change here breaks every ledger.
var golden = []struct {
	file, cid string
	body      Body
	keys      []ed25519.PrivateKey
}{
	{"charter.json", "bagaaieranadumaynpvvkxizqjsmn5oizp2vybma3ojwgyjg3vqqlvfx47ida", aCharter(), []ed25519.PrivateKey{key(1), key(2)}},
	{"offer.json", "bagaaierawkju4arwrnmakbywg6ufhle5bppsb5sdkekfqfq23i25uo7tu43q", anOffer(), []ed25519.PrivateKey{key(1)}},
	{"offer-private.json", "bagaaieratolsnsnmotsd5ylalyqphngqg5ejwtyoevmtx6tzh7gp7636473q", aPrivateOffer(), []ed25519.PrivateKey{key(1)}},
	{"lease.json", "bagaaierakxz67tvu64bhnbhmblmmhgffqmhhbldqak32xq2wqttkznwrywlq", aLease(), []ed25519.PrivateKey{key(1)}},
	{"revocation.json", "bagaaieraje2jl4e2gragdobhggifrk62iby2a5afqouvpvnb7h4t3bq5q7ea", aRevocation(), []ed25519.PrivateKey{key(1)}},
	{"revocation-detached.json", "bagaaieras2rvavfywkfewkuh4ikvdrptjjb5efzhlqspveluhwz6lyp3dz4a", aDetachedRevocation(), []ed25519.PrivateKey{key(1)}},
	{"revocation-vote.json", "bagaaieraty5djajcobve3rb7pvex3bf3ffsvhvl6burzssloc6sehvpuda7q", aVote(), []ed25519.PrivateKey{key(1)}},
	{"delegation.json", "bagaaieraqy4npsi3vsuke5o573enverep3jengsafihd2mu4fskjfperkg7q", aDelegation(), []ed25519.PrivateKey{key(1)}},
	{"rotation.json", "bagaaiera2arubiyc5p4v3t4wl6n4gxaaknzrplhfzgsjiz5wcg2pbr6hjlga", aRotation(), []ed25519.PrivateKey{key(1)}},
	{"statement.json", "bagaaierad6gt4xjcxva4i6yvbxnag4aaztxrvzaanxoywpw3qjqgbksclhga", aStatement(), []ed25519.PrivateKey{key(1)}},
	{"statement-exported.json", "bagaaiera73haz4snouq4ou5tamast3q6eys2cxzmbwdulnzakefgpzg2ceia", anExportStatement(), []ed25519.PrivateKey{key(1)}},
}

func TestGoldenEnvelopesDoNotDrift(t *testing.T) {
	for _, g := range golden {
		t.Run(g.file, func(t *testing.T) {
			path := filepath.Join("testdata", g.file)
			n := mustSign(t, g.body, g.keys...)
			if *update {
				if err := os.WriteFile(path, n.Envelope, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(n.Envelope, want) {
				t.Errorf("Sign wrote\n%s\nwant\n%s", n.Envelope, want)
			}
			n, err = Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if n.CID.String() != g.cid {
				t.Errorf("CID is %s, want %s", n.CID, g.cid)
			}
			if n.Kind != g.body.Kind() || len(n.Signers()) != len(g.keys) {
				t.Errorf("parsed a %s by %d signers", n.Kind, len(n.Signers()))
			}
		})
	}
}

// wrap signs any payload under any payload type, as a hostile member could.
func wrap(t testing.TB, payloadType, payload string, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	env := &dsse.Envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString([]byte(payload))}
	for _, k := range keys {
		env.Signatures = append(env.Signatures, dsse.Signature{
			KeyID: PublicKeyOf(k).String(),
			Sig:   base64.StdEncoding.EncodeToString(ed25519.Sign(k, dsse.PAE(payloadType, []byte(payload)))),
		})
	}
	b, err := encode(env)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManyEnvelopesParseAsEachDoes(t *testing.T) {
	var envelopes [][]byte
	for _, g := range golden {
		n, err := Sign(g.body, g.keys...)
		if err != nil {
			t.Fatal(err)
		}
		envelopes = append(envelopes, n.Envelope)
	}
	all, err := ParseAll(envelopes)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range all {
		one, err := Parse(envelopes[i])
		if err != nil || n.CID != one.CID || n.Kind != one.Kind || !bytes.Equal(n.Envelope, one.Envelope) || !slices.Equal(n.Signers(), one.Signers()) {
			t.Errorf("envelope %d: %v, alone %v, %v", i, n, one, err)
		}
	}
	if all, err := ParseAll(nil); len(all) != 0 || err != nil {
		t.Errorf("nothing parses as %v, %v", all, err)
	}
	for i, e := range envelopes {
		bad := slices.Clone(envelopes)
		bad[i] = bytes.Replace(e, []byte(`"sig":"`), []byte(`"sig":"A`), 1)
		at := bytes.Index(bad[i], []byte(`"sig":"`)) + 8
		bad[i] = slices.Delete(bad[i], at+20, at+21) // of the right length, and no longer the signature
		if all, err := ParseAll(bad); all != nil || !errors.Is(err, ErrSignature) {
			t.Errorf("with the signature of envelope %d spoilt: %v, want %v", i, err, ErrSignature)
		}
		bad[i] = e[:len(e)-1]
		if all, err := ParseAll(bad); all != nil || !errors.Is(err, ErrMalformed) {
			t.Errorf("with envelope %d cut short: %v, want %v", i, err, ErrMalformed)
		}
	}
}

// BenchmarkParse reads a page of leases one by one and all at once.
func BenchmarkParse(b *testing.B) {
	var page [][]byte
	for seq := range uint64(256) {
		h := Header{Charter: ref("charter"), Key: PublicKeyOf(key(1)), Seq: seq + 1, Time: time.Unix(int64(seq), 0)}
		if seq > 0 {
			h.Prev = ref("prev")
		}
		n, err := Sign(&Lease{Header: h, NotAfter: time.Unix(int64(seq)+9, 0)}, key(1))
		if err != nil {
			b.Fatal(err)
		}
		page = append(page, n.Envelope)
	}
	b.Run("each", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := Parse(page[i%len(page)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for range max(1, b.N/len(page)) {
			if _, err := ParseAll(page); err != nil {
				b.Fatal(err)
			}
		}
	})
}
