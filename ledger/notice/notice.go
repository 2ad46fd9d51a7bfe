// Package notice has the documents that members of a consortium sign and that
// travel between their nodes: [Charter], [Offer], [Lease], [Revocation],
// [Delegation], [Rotation] and [Statement].
//
// [Sign] makes a notice and [Parse] reads one. Both return a [Notice], whose
// signatures have been verified. Begin with Parse: every byte that arrives
// from a peer or a file goes through it and nothing else.
//
// A notice is a DSSE envelope (github.com/secure-systems-lab/dsse, protocol
// and envelope v1.0.2). The payload type names the kind and the payload is
// JSON:
//
//	{"payloadType":"application/vnd.chorus.offer.v1+json","payload":"…base64…",
//	 "signatures":[{"keyid":"z6Mk…","sig":"…base64…"}]}
//
// The identity of a notice is the CIDv1 (codec json, sha2-256) of the payload
// bytes, and never of the envelope or a signature. Envelope and payload have
// one spelling each, the one that Sign writes: no white space, every field
// present and in the order of the Go struct, numbers and strings as in RFC
// 8785. Parse refuses any other, so that two programs cannot read two meanings
// out of the same bytes.
//
// The package is pure. It reads no clock, disk or network, and it does not
// know which keys belong to members, what came before a notice, or whether a
// lease has run out: that is for package ledger.
package notice

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hdevalence/ed25519consensus"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

const (
	// MaxSize is the size in bytes of the largest envelope but a charter's.
	MaxSize = 64 << 10

	// MaxCharterSize is the size in bytes of a charter's largest envelope.
	MaxCharterSize = 1 << 20

	// MaxSeq is the last sequence number of a feed, and the bound of every
	// other integer in a notice: the largest that each JSON reader can hold.
	MaxSeq = 1<<53 - 1
)

// Errors that Parse, Sign and VerifyCharter wrap. ErrRefused is for a store: what
// is signed well may not belong into it.
var (
	ErrRefused   = errors.New("notice refused")
	ErrTooLarge  = errors.New("notice is too large")
	ErrMalformed = errors.New("malformed notice")
	ErrSignature = errors.New("notice is not signed by the right key")
)

// Kind says which document a notice is.
type Kind string

// The kinds of notice.
const (
	KindCharter    Kind = "charter"
	KindOffer      Kind = "offer"
	KindLease      Kind = "lease"
	KindRevocation Kind = "revocation"
	KindDelegation Kind = "delegation"
	KindRotation   Kind = "rotation"
	KindStatement  Kind = "statement"
)

// payloadType returns the DSSE payload type of k.
func (k Kind) payloadType() string { return "application/vnd.chorus." + string(k) + ".v1+json" }

// newBody returns the empty body for a payload type, or nil.
func newBody(payloadType string) Body {
	switch payloadType {
	case KindCharter.payloadType():
		return new(Charter)
	case KindOffer.payloadType():
		return new(Offer)
	case KindLease.payloadType():
		return new(Lease)
	case KindRevocation.payloadType():
		return new(Revocation)
	case KindDelegation.payloadType():
		return new(Delegation)
	case KindRotation.payloadType():
		return new(Rotation)
	case KindStatement.payloadType():
		return new(Statement)
	}
	return nil
}

// Body is what a notice says: a pointer to one of the documents.
type Body interface {
	Kind() Kind
	header() *Header // nil for a charter
	validate() error // what the types cannot say; wraps ErrMalformed
}

// Header is how every notice of a feed begins. A feed is the chain of one
// key's notices. A detached notice, of seq 0, stands in no chain: a revocation
// of an offer or a key that was signed ahead of its need and put away.
type Header struct {
	Charter cid.Cid   `json:"charter"`       // version 1 of the charter: binds the notice to one consortium
	Key     PublicKey `json:"key"`           // whose feed this is; also who signed
	Seq     uint64    `json:"seq"`           // place in the feed, from 1 to MaxSeq; 0: detached
	Prev    cid.Cid   `json:"prev,omitzero"` // the notice at Seq-1; undefined exactly when Seq is at most 1
	Time    time.Time `json:"time"`          // when it was signed, by the signer's clock; UTC, whole seconds
}

func (h *Header) header() *Header { return h }

// validate is for notices that stand in a feed.
func (h *Header) validate() error { return h.validateSeq(1) }

// validateSeq checks a header whose seq is at least low.
func (h *Header) validateSeq(low uint64) error {
	if err := checkRef("charter", h.Charter); err != nil {
		return err
	}
	if h.Key.IsZero() {
		return malformed("key is missing")
	}
	if h.Seq < low || h.Seq > MaxSeq {
		return malformed("seq is %d, want %d to %d", h.Seq, low, uint64(MaxSeq))
	}
	if h.Seq <= 1 && h.Prev.Defined() {
		return malformed("neither a detached notice nor the first of a feed has a prev")
	}
	if h.Seq > 1 {
		if err := checkRef("prev", h.Prev); err != nil {
			return err
		}
	}
	return checkTime("time", h.Time)
}

// WithHeader returns a copy of b with its header replaced by h. A charter has
// no header: for one, the error wraps ErrMalformed.
func WithHeader(b Body, h Header) (Body, error) {
	switch b := b.(type) {
	case *Offer:
		c := *b
		c.Header = h
		return &c, nil
	case *Lease:
		c := *b
		c.Header = h
		return &c, nil
	case *Revocation:
		c := *b
		c.Header = h
		return &c, nil
	case *Delegation:
		c := *b
		c.Header = h
		return &c, nil
	case *Rotation:
		c := *b
		c.Header = h
		return &c, nil
	case *Statement:
		c := *b
		c.Header = h
		return &c, nil
	}
	return nil, malformed("a %s does not stand in a feed", b.Kind())
}

// Notice is a signed document, verified. Sign, Cosign and Parse are the only
// ways to make one. It is immutable: do not change what its fields refer to.
type Notice struct {
	CID      cid.Cid // identity: CIDv1, json, sha2-256 of the payload
	Kind     Kind
	Body     Body
	Envelope []byte // the bytes to store and forward

	signers []PublicKey // sorted by text form
}

// Header returns the header of a feed's notice, and nil for a charter.
func (n *Notice) Header() *Header { return n.Body.header() }

// Detached reports whether n belongs to a key but stands in no chain.
func (n *Notice) Detached() bool {
	h := n.Header()
	return h != nil && h.Seq == 0
}

// Withdraws reports whether n can take something from somebody by what it says: it
// revokes, replaces a key, or says who belongs.
func (n *Notice) Withdraws() bool {
	switch n.Kind {
	case KindRevocation, KindRotation, KindCharter:
		return true
	}
	return false
}

// Signers returns the keys whose signatures verified, in the order of their
// text form: the feed's key alone, or those who signed a charter.
func (n *Notice) Signers() []PublicKey { return slices.Clone(n.signers) }

// Sign makes a notice of b. A feed's notice takes one key, the one that its
// header names; a charter takes one or more, all different. Times are cut to
// whole seconds. The errors wrap ErrMalformed, ErrSignature and ErrTooLarge.
func Sign(b Body, keys ...ed25519.PrivateKey) (*Notice, error) {
	if err := b.validate(); err != nil {
		return nil, err
	}
	payload, err := encode(b)
	if err != nil {
		return nil, err
	}
	return seal(b.Kind(), payload, nil, keys)
}

// Cosign returns the charter n with more signatures, so that stewards can sign
// on machines of their own, one after the other. The identity stays. It
// refuses keys that have signed before.
func Cosign(n *Notice, keys ...ed25519.PrivateKey) (*Notice, error) {
	if n.Kind != KindCharter {
		return nil, fmt.Errorf("%w: only a charter takes several signatures", ErrSignature)
	}
	env, payload, err := openEnvelope(n.Envelope)
	if err != nil {
		return nil, err
	}
	return seal(n.Kind, payload, env.Signatures, keys)
}

// seal adds the signatures of keys to sigs and puts them and the payload into
// an envelope. It ends with Parse, so that what Sign makes, Parse accepts.
func seal(kind Kind, payload []byte, sigs []dsse.Signature, keys []ed25519.PrivateKey) (*Notice, error) {
	pae := dsse.PAE(kind.payloadType(), payload)
	for _, k := range keys {
		if len(k) != ed25519.PrivateKeySize {
			return nil, fmt.Errorf("%w: a private key of %d bytes", ErrSignature, len(k))
		}
		sigs = append(sigs, dsse.Signature{
			KeyID: PublicKeyOf(k).String(),
			Sig:   base64.StdEncoding.EncodeToString(ed25519.Sign(k, pae)),
		})
	}
	slices.SortFunc(sigs, func(a, b dsse.Signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	envelope, err := encode(&dsse.Envelope{
		PayloadType: kind.payloadType(),
		Payload:     base64.StdEncoding.EncodeToString(payload),
		Signatures:  sigs,
	})
	if err != nil {
		return nil, err
	}
	return Parse(envelope)
}

// Parse reads and verifies an envelope. It accepts exactly what Sign and
// Cosign write: see the package comment. The notice keeps a copy of the bytes.
// Of the same bytes it may return the same notice again.
// The errors wrap ErrTooLarge, ErrMalformed or ErrSignature.
func Parse(envelope []byte) (*Notice, error) {
	sum := sha256.Sum256(envelope)
	if n := recent.get(sum); n != nil {
		return n, nil
	}
	n, signed, err := readEnvelope(envelope)
	if err == nil {
		err = verify(n.Kind, signed)
	}
	if err != nil {
		return nil, err
	}
	recent.put(sum, n)
	return n, nil
}

// ParseAll is Parse for many envelopes, in less time for each. The error is that
// of one that Parse refuses.
func ParseAll(envelopes [][]byte) ([]*Notice, error) {
	batch := ed25519consensus.NewPreallocatedBatchVerifier(len(envelopes))
	notices := make([]*Notice, len(envelopes))
	read := make(map[[sha256.Size]byte]*Notice) // and not verified yet
	for i, envelope := range envelopes {
		sum := sha256.Sum256(envelope)
		if notices[i] = recent.get(sum); notices[i] != nil {
			continue
		}
		n, signed, err := readEnvelope(envelope)
		if err != nil {
			return nil, err
		}
		for _, s := range signed {
			batch.Add(s.key[:], s.message, s.sig)
		}
		notices[i], read[sum] = n, n
	}
	if len(read) == 0 || batch.Verify() {
		for sum, n := range read {
			recent.put(sum, n)
		}
		return notices, nil
	}
	for _, envelope := range envelopes {
		if _, err := Parse(envelope); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the signatures verify one by one and not together", ErrSignature)
}

// readEnvelope does all of Parse but the arithmetic of signatures, which it returns.
func readEnvelope(envelope []byte) (*Notice, []signature, error) {
	env, payload, err := openEnvelope(envelope)
	if err != nil {
		return nil, nil, err
	}
	body := newBody(env.PayloadType)
	if body == nil {
		return nil, nil, malformed("unknown payload type %.80q", env.PayloadType)
	}
	if err := decode(payload, body); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", body.Kind(), err)
	}
	if err := body.validate(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", body.Kind(), err)
	}
	signed, err := signatures(env, payload)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", body.Kind(), err)
	}
	var signers []PublicKey
	for _, s := range signed {
		signers = append(signers, s.key)
	}
	if h := body.header(); h != nil && (len(signers) != 1 || signers[0] != h.Key) {
		return nil, nil, fmt.Errorf("%s: %w: want one signature, by %s", body.Kind(), ErrSignature, h.Key)
	}
	id, err := identity(payload)
	if err != nil {
		return nil, nil, err
	}
	return &Notice{CID: id, Kind: body.Kind(), Body: body, Envelope: bytes.Clone(envelope), signers: signers}, signed, nil
}

// charterPrefix is how the one spelling of a charter's envelope begins.
var charterPrefix = []byte(`{"payloadType":"` + KindCharter.payloadType() + `"`)

// openEnvelope checks the form of an envelope and decodes its payload.
func openEnvelope(envelope []byte) (*dsse.Envelope, []byte, error) {
	limit := MaxSize
	if bytes.HasPrefix(envelope, charterPrefix) {
		limit = MaxCharterSize
	}
	if len(envelope) > limit {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(envelope))
	}
	env := new(dsse.Envelope)
	if err := decode(envelope, env); err != nil {
		return nil, nil, fmt.Errorf("envelope: %w", err)
	}
	payload, err := decodeBase64("payload", env.Payload)
	return env, payload, err
}

// signature is one of an envelope's, with what it signs.
type signature struct {
	key          PublicKey
	message, sig []byte
}

// signatures reads those of env.
func signatures(env *dsse.Envelope, payload []byte) ([]signature, error) {
	if len(env.Signatures) == 0 {
		return nil, fmt.Errorf("%w: no signature", ErrSignature)
	}
	pae := dsse.PAE(env.PayloadType, payload)
	all := make([]signature, 0, len(env.Signatures))
	for i, s := range env.Signatures {
		if i > 0 && s.KeyID <= env.Signatures[i-1].KeyID {
			return nil, malformed("signatures must be sorted by keyid, one for each key")
		}
		k, err := ParsePublicKey(s.KeyID)
		if err != nil {
			return nil, err
		}
		sig, err := decodeBase64("sig", s.Sig)
		if err != nil {
			return nil, err
		}
		all = append(all, signature{k, pae, sig})
	}
	return all, nil
}

// verify checks every signature of an envelope: one that does not verify spoils it.
//
// Of the rules by which implementations of Ed25519 differ, it follows ZIP 215: under those, and not under others, many
// signatures checked together stand exactly if each of them does, so that no node refuses what another took in.
func verify(k Kind, all []signature) error {
	for _, s := range all {
		if !ed25519consensus.Verify(s.key[:], s.message, s.sig) {
			return fmt.Errorf("%s: %w: the signature of %s does not verify", k, ErrSignature, s.key)
		}
	}
	return nil
}

// identity returns the CID of a payload.
func identity(payload []byte) (cid.Cid, error) {
	h, err := multihash.Sum(payload, multihash.SHA2_256, -1)
	if err != nil {
		return cid.Undef, err
	}
	return cid.NewCidV1(codecJSON, h), nil
}
