package invite

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
)

// The conversation, in frames of a length and a body: JSON, and in the end the versions of the charter.
//
//	guest    opening  a commitment to its card and a nonce
//	node     greeting who it is, and a nonce of its own
//	guest    request  the card and the nonce
//	node     words    how the request stands, whenever that changes
//	         charters after the word "admitted": every version up to the one that lists the guest
//	guest    receipt  that it keeps them
//
// Neither side can choose the fingerprint, which is made of both nonces and all keys: the guest commits to its own before it
// has the node's, and the node gives one nonce to one commitment.
const (
	maxFrame    = 16 << 10
	maxVersions = 1 << 16
	// MaxHistory bounds the charters that a guest takes in, in bytes.
	MaxHistory = 256 << 20
)

// A Nonce is random, and makes a fingerprint that nobody can foresee.
type Nonce [16]byte

// NewNonce returns a random nonce.
func NewNonce() (n Nonce) {
	rand.Read(n[:])
	return n
}

// A Commitment binds a guest to its card and nonce before it shows them.
type Commitment [sha256.Size]byte

// Commit returns the commitment to a card and a nonce.
func Commit(card notice.Member, n Nonce) Commitment {
	return sha256.Sum256(append(append([]byte("chorus commitment 1\n"), n[:]...), keysOf(card)...))
}

// keysOf spells out all that a card says.
func keysOf(card notice.Member) []byte {
	b := fmt.Appendf(nil, "%s %s %s %s", card.Name, card.Publishing, card.Node, card.Recovery)
	for _, k := range card.Revokers {
		b = fmt.Appendf(b, " %s", k)
	}
	return append(b, '\n')
}

// Fingerprint is what people on both sides read to each other: three groups of four digits. Someone between them who
// shows either a key of its own has one chance in 10¹² that the two are the same.
func Fingerprint(node notice.PublicKey, root cid.Cid, card notice.Member, guest, host Nonce) string {
	b := fmt.Appendf(nil, "chorus fingerprint 1\n%s %s\n", node, root)
	b = append(append(append(b, guest[:]...), host[:]...), keysOf(card)...)
	sum := sha256.Sum256(b)
	n := binary.BigEndian.Uint64(sum[:]) % 1e12
	return fmt.Sprintf("%04d %04d %04d", n/1e8, n/1e4%1e4, n%1e4)
}

// A State says how a request stands.
type State string

// The states of a request. All but the first two are final.
const (
	Waiting   State = "waiting"   // for stewards to sign
	Admitted  State = "admitted"  // the charter lists the guest
	Used      State = "used"      // somebody else has used the code
	Expired   State = "expired"   // it stood for Lifetime
	Cancelled State = "cancelled" // who gave it out took it back, or declined the request
	Unfit     State = "unfit"     // the card cannot be put on the charter
)

var states = map[State]bool{Waiting: true, Admitted: true, Used: true, Expired: true, Cancelled: true, Unfit: true}

// words are the errors that final states stand for.
var words = map[State]error{
	Used:      errors.New("somebody has used this code before, and it is good for one: ask for another"),
	Expired:   ErrExpired,
	Cancelled: errors.New("the invitation was taken back"),
	Unfit:     errors.New("the card cannot be put on the charter"),
}

// A Refusal is the node's final word to a guest.
type Refusal struct {
	State  State
	Detail string // may be empty
}

func (r *Refusal) Error() string {
	if r.Detail != "" {
		return fmt.Sprintf("%v: %s", words[r.State], r.Detail)
	}
	return words[r.State].Error()
}

func (r *Refusal) Unwrap() error { return words[r.State] }

type opening struct {
	Commitment Commitment `json:"commitment"`
}

// A Greeting is what the inviting node says of itself.
type Greeting struct {
	Consortium string  `json:"consortium"` // its name, as the node says
	Root       cid.Cid `json:"root"`       // version 1 of its charter
	Member     string  `json:"member"`     // whose node it is
	Nonce      Nonce   `json:"nonce"`
	Refused    State   `json:"refused,omitzero"` // the invitation does not stand, and the conversation ends
}

type request struct {
	Card  notice.Member `json:"card"`
	Nonce Nonce         `json:"nonce"`
}

// A Word says how a request stands.
type Word struct {
	State    State  `json:"state"`
	Detail   string `json:"detail,omitzero"`   // a line for people
	Charters int    `json:"charters,omitzero"` // how many versions follow: exactly with Admitted
}

type receipt struct {
	Kept bool `json:"kept"`
}

// maxDetail bounds a line for people, in bytes.
const maxDetail = 512

// checkLine refuses a text that a terminal would not show as a line.
func checkLine(field, s string) error {
	if len(s) > maxDetail || !utf8.ValidString(s) {
		return fmt.Errorf("%s of %d bytes, want a line of at most %d", field, len(s), maxDetail)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s has the character %U, want a line", field, r)
		}
	}
	return nil
}

func (o *opening) check() error { return nil }
func (r *receipt) check() error { return nil }
func (r *request) check() error { return CheckCard(r.Card) }

func (g *Greeting) check() error {
	if g.Refused != "" && (!states[g.Refused] || words[g.Refused] == nil) {
		return fmt.Errorf("refused for %.20q", g.Refused)
	}
	if g.Refused != "" {
		return nil
	}
	if !g.Root.Defined() {
		return errors.New("no root")
	}
	if err := checkLine("consortium", g.Consortium); err != nil {
		return err
	}
	return notice.CheckName(g.Member)
}

func (w *Word) check() error {
	if !states[w.State] || (w.State == Admitted) != (w.Charters > 0) || w.Charters < 0 || w.Charters > maxVersions {
		return fmt.Errorf("state %.20q with %d charters", w.State, w.Charters)
	}
	return checkLine("detail", w.Detail)
}

// CheckCard reports whether a card by itself could stand on a charter.
func CheckCard(m notice.Member) error {
	if err := notice.CheckName(m.Name); err != nil {
		return err
	}
	if len(m.Revokers) > 8 {
		return fmt.Errorf("card of %s: %d revokers", m.Name, len(m.Revokers))
	}
	seen := map[notice.PublicKey]bool{}
	for _, k := range m.Keys() {
		if k.IsZero() || seen[k] {
			return fmt.Errorf("card of %s: a key is missing or there twice", m.Name)
		}
		seen[k] = true
	}
	return nil
}

// A checked message says whether it makes sense.
type checked[T any] interface {
	*T
	check() error
}

// unmarshal reads a message strictly.
func unmarshal[T any, P checked[T]](b []byte) (m T, err error) {
	if err := json.Unmarshal(b, &m, json.RejectUnknownMembers(true)); err != nil {
		return m, fmt.Errorf("malformed message: %w", err)
	}
	if err := P(&m).check(); err != nil {
		return m, fmt.Errorf("malformed message: %w", err)
	}
	return m, nil
}

func receive[T any, P checked[T]](r io.Reader) (m T, err error) {
	b, err := readFrame(r, maxFrame)
	if err != nil {
		return m, err
	}
	return unmarshal[T, P](b)
}

func send(w io.Writer, m any) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeFrame(w, b)
}

func readFrame(r io.Reader, limit int) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > uint32(limit) {
		return nil, fmt.Errorf("message of %d bytes, want at most %d", n, limit)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// A Guest is one who asks.
type Guest struct {
	Code  *Code
	Node  notice.PublicKey // whom it talks to, as that has proved
	Card  notice.Member
	Nonce Nonce

	// Greeted is told what the node says of itself, once that is known to be the one which the code names. An error ends the
	// conversation before the card is shown.
	Greeted func(Greeting) error
	// Heard is told how the request stands.
	Heard func(Word)
	// Keep is given every version of the charter, from 1 to the one that lists the guest, verified and in order.
	Keep func([]*notice.Notice) error
}

// ErrWrongNode reports a node that is not the one that the code names.
var ErrWrongNode = errors.New("the node at this address is not the one that gave out the code")

// Ask holds the guest's side of the conversation until the guest is admitted. The error is a [*Refusal] if the node says no, and
// wraps [ErrWrongNode] if it is another node.
func Ask(s io.ReadWriter, g Guest) error {
	if err := send(s, opening{Commit(g.Card, g.Nonce)}); err != nil {
		return err
	}
	hello, err := receive[Greeting](s)
	if err != nil {
		return err
	}
	if hello.Refused != "" {
		return &Refusal{State: hello.Refused}
	}
	if !g.Code.Binds(g.Node, hello.Root) {
		return ErrWrongNode
	}
	if err := g.Greeted(hello); err != nil {
		return err
	}
	if err := send(s, request{g.Card, g.Nonce}); err != nil {
		return err
	}
	for {
		w, err := receive[Word](s)
		switch {
		case err != nil:
			return err
		case w.State == Waiting:
			g.Heard(w)
			continue
		case w.State != Admitted:
			return &Refusal{w.State, w.Detail}
		}
		chain, err := receiveCharters(s, hello.Root, w.Charters)
		if err != nil {
			return err
		}
		last := chain[len(chain)-1].Body.(*notice.Charter)
		if m, ok := last.Named(g.Card.Name); !ok || !m.Equal(g.Card) {
			return fmt.Errorf("version %d of the charter does not list %s with the keys of its card", last.Version, g.Card.Name)
		}
		if err := g.Keep(chain); err != nil {
			return err
		}
		return send(s, receipt{true})
	}
}

// receiveCharters reads the versions that follow each other from root.
func receiveCharters(r io.Reader, root cid.Cid, count int) (chain []*notice.Notice, err error) {
	var prev *notice.Notice
	total := 0
	for range count {
		b, err := readFrame(r, notice.MaxCharterSize)
		if err != nil {
			return nil, err
		}
		if total += len(b); total > MaxHistory {
			return nil, fmt.Errorf("charters of more than %d bytes", MaxHistory)
		}
		n, err := notice.Parse(b)
		if err != nil {
			return nil, err
		}
		if prev == nil && n.CID != root {
			return nil, fmt.Errorf("charter %s, want version 1, %s", n.CID, root)
		}
		if err := notice.VerifyCharter(n, prev); err != nil {
			return nil, err
		}
		chain, prev = append(chain, n), n
	}
	return chain, nil
}

// A Host is the inviting side of one conversation.
type Host interface {
	// Greet says who the node is to a guest that commits to a card. It always gives one nonce to one commitment, and refuses a second one.
	Greet(Commitment) (Greeting, error)
	// Request takes in the card that a guest has shown.
	Request(notice.Member, Nonce) error
	// Stands says how the request stands, and returns a channel that is closed when that may have changed, or ctx ends. If the
	// guest is admitted, the charters are the versions from 1 to one that lists it.
	Stands(ctx context.Context) (Word, []*notice.Notice, <-chan struct{}, error)
	// Kept takes note that the guest has the charter.
	Kept() error
}

// A Stream is what a node talks to a guest over.
type Stream interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}

// patience is how long a node waits for a guest that has nothing to wait for.
const patience = 30 * time.Second

// Answer holds the node's side of the conversation, until it is over or ctx ends. Reset s when ctx ends.
func Answer(ctx context.Context, s Stream, h Host) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	open, err := receive[opening](s)
	if err != nil {
		return err
	}
	hello, err := h.Greet(open.Commitment)
	if err != nil {
		return err
	}
	if err := send(s, hello); err != nil || hello.Refused != "" {
		return err
	}
	asked, err := receive[request](s)
	if err != nil {
		return err
	}
	if Commit(asked.Card, asked.Nonce) != open.Commitment {
		return errors.New("the guest shows another card than the one that it has committed to")
	}
	if err := h.Request(asked.Card, asked.Nonce); err != nil {
		return err
	}
	// A guest may wait for days, and is not waited for once it hangs up.
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	var left error
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var r receipt
		if r, left = receive[receipt](s); left == nil && !r.Kept {
			left = errors.New("the guest does not keep the charter")
		}
	}()
	defer func() {
		s.SetReadDeadline(time.Now().Add(patience))
		<-gone
	}()
	var said Word
	for {
		w, charters, changed, err := h.Stands(ctx)
		if err != nil {
			return err
		}
		w.Charters = len(charters)
		if w != said {
			if err := send(s, w); err != nil {
				return err
			}
			said = w
		}
		for _, n := range charters {
			if err := writeFrame(s, n.Envelope); err != nil {
				return err
			}
		}
		if w.State != Waiting && w.State != Admitted {
			return nil
		}
		if w.State == Admitted {
			changed = nil
		}
		select {
		case <-gone:
			if left != nil || w.State != Admitted {
				return left
			}
			return h.Kept()
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
