package invite

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

func cardOf(name string) notice.Member {
	return notice.Member{Name: name, Publishing: keyOf(name + " publishing"), Node: keyOf(name + " node"), Recovery: keyOf(name + " recovery"), Revokers: []notice.PublicKey{}}
}

// A desk is a host in memory.
type desk struct {
	t        *testing.T
	greeting Greeting

	mu      sync.Mutex
	word    Word
	chain   []*notice.Notice
	changed chan struct{}
	card    *notice.Member
	kept    bool
}

func (d *desk) Greet(Commitment) (Greeting, error) { return d.greeting, nil }

func (d *desk) Request(card notice.Member, _ Nonce) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.card = &card
	return nil
}

func (d *desk) Stands(context.Context) (Word, []*notice.Notice, <-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.word, d.chain, d.changed, nil
}

func (d *desk) Kept() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = true
	return nil
}

// says changes how the request stands.
func (d *desk) says(w Word, chain ...*notice.Notice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.word, d.chain = w, chain
	close(d.changed)
	d.changed = make(chan struct{})
}

// charters returns a charter of hub alone and one more version that admits each card.
func charters(t *testing.T, cards ...notice.Member) (chain []*notice.Notice) {
	t.Helper()
	key := privateOf("hub publishing")
	c := &notice.Charter{Name: "hearts", Version: 1, Anchor: cid.NewCidV1(cid.Raw, rootOf(t, "anchor").Hash()), Members: []notice.Member{cardOf("hub")}, Stewards: []string{"hub"}, Quorum: 1,
		LeaseSeconds: 1, LeaseCeilingSeconds: 1, MaxBlobBytes: 1, OffersPerDay: 1}
	for {
		n, err := notice.Sign(c, key)
		if err != nil {
			t.Fatal(err)
		}
		if chain = append(chain, n); len(chain) > len(cards) {
			return chain
		}
		next := *c
		next.Version, next.Prev, next.Members = c.Version+1, n.CID, append([]notice.Member{cards[len(chain)-1]}, c.Members...)
		c = &next
	}
}

// A talk is a conversation between a guest and a desk.
type talk struct {
	desk     *desk
	answered chan error
	asked    chan error
	heard    chan Word
	greeted  chan Greeting
	kept     chan []*notice.Notice
}

// begin has a guest with the card of clinic talk to a desk. change, which may be nil, changes what the guest says.
func begin(t *testing.T, root cid.Cid, change func(*Guest), greeting ...Greeting) *talk {
	t.Helper()
	here, there := net.Pipe()
	d := &desk{t: t, greeting: Greeting{Consortium: "hearts", Root: root, Member: "hub"}, word: Word{State: Waiting}, changed: make(chan struct{})}
	for _, g := range greeting {
		d.greeting = g
	}
	k := &talk{d, make(chan error, 1), make(chan error, 1), make(chan Word, 10), make(chan Greeting, 10), make(chan []*notice.Notice, 10)}
	code := newCode(t, "clinic", "/ip4/192.0.2.7/tcp/4101")
	code.binding = bind(keyOf("hub"), root)
	g := Guest{Code: code, Node: keyOf("hub"), Card: cardOf("clinic"), Nonce: Nonce{1},
		Greeted: func(g Greeting) error { k.greeted <- g; return nil },
		Heard:   func(w Word) { k.heard <- w },
		Keep:    func(c []*notice.Notice) error { k.kept <- c; return nil },
	}
	if change != nil {
		change(&g)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	context.AfterFunc(ctx, func() { here.Close(); there.Close() })
	go func() {
		k.answered <- Answer(ctx, there, d)
		there.Close()
	}()
	go func() {
		k.asked <- Ask(here, g)
		here.Close()
	}()
	return k
}

func TestGuestIsGivenTheCharterThatListsIt(t *testing.T) {
	chain := charters(t, cardOf("clinic"))
	k := begin(t, chain[0].CID, nil)
	if w := <-k.heard; w.State != Waiting {
		t.Errorf("heard %+v", w)
	}
	k.desk.says(Word{State: Waiting, Detail: "1 of 2 has signed"})
	if w := <-k.heard; w.Detail != "1 of 2 has signed" {
		t.Errorf("heard %+v", w)
	}
	k.desk.says(Word{State: Admitted}, chain...)
	if err := <-k.asked; err != nil {
		t.Fatal(err)
	}
	if got := <-k.kept; len(got) != 2 || got[1].CID != chain[1].CID {
		t.Errorf("kept %v", got)
	}
	if err := <-k.answered; err != nil || !k.desk.kept || !k.desk.card.Equal(cardOf("clinic")) {
		t.Errorf("the host: %v, kept %v, card %v", err, k.desk.kept, k.desk.card)
	}
}

func TestGuestKeepsNoCharterThatDoesNotStand(t *testing.T) {
	chain := charters(t, cardOf("clinic"))
	other := cardOf("clinic")
	other.Node = keyOf("somebody else")
	unsigned := *chain[1].Body.(*notice.Charter)
	forged, err := notice.Sign(&unsigned, privateOf("clinic publishing"))
	if err != nil {
		t.Fatal(err)
	}
	for what, given := range map[string][]*notice.Notice{
		"without the guest":        chain[:1],
		"with other keys":          charters(t, other),
		"signed by no steward":     {chain[0], forged},
		"of another consortium":    {charters(t, cardOf("east"))[1]},
		"with a version left out":  {chain[1]},
		"with a version too often": {chain[0], chain[0], chain[1]},
	} {
		k := begin(t, chain[0].CID, nil)
		<-k.heard
		k.desk.says(Word{State: Admitted}, given...)
		if err := <-k.asked; err == nil || len(k.kept) > 0 {
			t.Errorf("a charter %s: %v", what, err)
		}
		if err := <-k.answered; err == nil || k.desk.kept {
			t.Errorf("a charter %s: the host heard that it is kept", what)
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	root := charters(t)[0].CID
	for state := range words {
		k := begin(t, root, nil, Greeting{Refused: state})
		var no *Refusal
		if err := <-k.asked; !errors.As(err, &no) || no.State != state || err.Error() == "" || k.desk.card != nil {
			t.Errorf("%s at once: %v", state, err)
		}
		k = begin(t, root, nil)
		<-k.heard
		k.desk.says(Word{State: state, Detail: "so it is"})
		if err := <-k.asked; !errors.As(err, &no) || no.State != state || !strings.HasSuffix(err.Error(), "so it is") {
			t.Errorf("%s later: %v", state, err)
		}
	}
}

func TestGuestShowsItsCardToNoOtherNode(t *testing.T) {
	root := charters(t)[0].CID
	k := begin(t, root, func(g *Guest) { g.Node = keyOf("impostor") })
	if err := <-k.asked; !errors.Is(err, ErrWrongNode) {
		t.Errorf("another node: %v", err)
	}
	<-k.answered
	if k.desk.card != nil {
		t.Error("another node has seen the card")
	}
	k = begin(t, root, nil, Greeting{Consortium: "hearts", Root: rootOf(t, "other"), Member: "hub"})
	if err := <-k.asked; !errors.Is(err, ErrWrongNode) {
		t.Errorf("another consortium: %v", err)
	}
}

func TestHostRefusesAnotherCardThanTheOneCommittedTo(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	d := &desk{t: t, greeting: Greeting{Consortium: "hearts", Root: rootOf(t, "root"), Member: "hub"}, changed: make(chan struct{})}
	answered := make(chan error, 1)
	go func() { answered <- Answer(t.Context(), there, d) }()
	if err := send(here, opening{Commit(cardOf("clinic"), Nonce{1})}); err != nil {
		t.Fatal(err)
	}
	if _, err := receive[Greeting](here); err != nil {
		t.Fatal(err)
	}
	if err := send(here, request{cardOf("clinic"), Nonce{2}}); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil || d.card != nil {
		t.Errorf("another nonce: %v", err)
	}
}

func TestFingerprintDependsOnAllThatBothSidesShow(t *testing.T) {
	root, card := rootOf(t, "root"), cardOf("clinic")
	changed := func(change func(*notice.Member)) notice.Member {
		m := cardOf("clinic")
		change(&m)
		return m
	}
	seen := map[string]string{}
	for what, print := range map[string]string{
		"itself":        Fingerprint(keyOf("hub"), root, card, Nonce{1}, Nonce{2}),
		"node":          Fingerprint(keyOf("other"), root, card, Nonce{1}, Nonce{2}),
		"root":          Fingerprint(keyOf("hub"), rootOf(t, "other"), card, Nonce{1}, Nonce{2}),
		"guest's nonce": Fingerprint(keyOf("hub"), root, card, Nonce{3}, Nonce{2}),
		"host's nonce":  Fingerprint(keyOf("hub"), root, card, Nonce{1}, Nonce{3}),
		"name":          Fingerprint(keyOf("hub"), root, changed(func(m *notice.Member) { m.Name = "x" }), Nonce{1}, Nonce{2}),
		"publishing":    Fingerprint(keyOf("hub"), root, changed(func(m *notice.Member) { m.Publishing = keyOf("x") }), Nonce{1}, Nonce{2}),
		"node key":      Fingerprint(keyOf("hub"), root, changed(func(m *notice.Member) { m.Node = keyOf("x") }), Nonce{1}, Nonce{2}),
		"recovery":      Fingerprint(keyOf("hub"), root, changed(func(m *notice.Member) { m.Recovery = notice.PublicKey{} }), Nonce{1}, Nonce{2}),
		"revokers":      Fingerprint(keyOf("hub"), root, changed(func(m *notice.Member) { m.Revokers = []notice.PublicKey{keyOf("x")} }), Nonce{1}, Nonce{2}),
	} {
		if len(print) != 14 || seen[print] != "" {
			t.Errorf("%s: %q, as for %s", what, print, seen[print])
		}
		seen[print] = what
	}
}

func FuzzMessages(f *testing.F) {
	for _, m := range []any{
		opening{Commitment{1}}, Greeting{Consortium: "hearts", Root: rootOf(f, "root"), Member: "hub", Nonce: Nonce{1}}, Greeting{Refused: Used},
		request{cardOf("clinic"), Nonce{2}}, Word{State: Waiting, Detail: "for hub"}, Word{State: Admitted, Charters: 2}, receipt{true},
	} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip[opening](t, b)
		roundTrip[Greeting](t, b)
		roundTrip[request](t, b)
		roundTrip[Word](t, b)
		roundTrip[receipt](t, b)
	})
}

// roundTrip holds that what is accepted is sent so that it is accepted as the same.
func roundTrip[T any, P checked[T]](t *testing.T, b []byte) {
	m, err := unmarshal[T, P](b)
	if err != nil {
		return
	}
	var sent strings.Builder
	if err := send(&sent, m); err != nil {
		t.Fatal(err)
	}
	again, err := receive[T, P](strings.NewReader(sent.String()))
	if err != nil || !reflect.DeepEqual(again, m) {
		t.Errorf("%+v is received as %+v, %v", m, again, err)
	}
}
