package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"chorus/ledger/notice"
	"chorus/node/invite"
	"chorus/p2p"

	"github.com/go-json-experiment/json"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	maxInvitations = 100                 // that stand at one time
	toldFor        = 30 * 24 * time.Hour // how long after its end a guest is told why its code no longer serves
	maxInvited     = 16 << 20            // size of the file, in bytes
)

// Invitation is a code that this node has given out, and what came of it. The code itself is not kept.
type Invitation struct {
	Name        string         `json:"name"` // of the organisation
	Expires     time.Time      `json:"expires"`
	State       invite.State   `json:"state,omitzero"` // empty: nobody has used the code yet
	Card        *notice.Member `json:"card,omitempty"` // of who used it
	Fingerprint string         `json:"fingerprint,omitempty"`
	Detail      string         `json:"detail,omitempty"` // what a request waits for
	Joined      bool           `json:"joined,omitempty"` // the guest has the charter
}

// Invited is a fresh invitation.
type Invited struct {
	Code      string    `json:"code"`
	Expires   time.Time `json:"expires"`
	Addresses []string  `json:"addresses"` // where the guest will look for this node
}

// InviteRequest asks for an invitation.
type InviteRequest struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"` // multiaddrs that others reach this node at; none: those that it listens on
}

// An invitation is what the home keeps of one, in invitations.json.
type invitation struct {
	Guest      notice.PublicKey   `json:"guest"` // the key that the code's secret gives
	Name       string             `json:"name"`
	Expires    time.Time          `json:"expires"`
	Nonce      invite.Nonce       `json:"nonce"`
	Commitment *invite.Commitment `json:"commitment,omitempty"` // of the one who used it
	Theirs     invite.Nonce       `json:"theirs"`
	Card       *notice.Member     `json:"card,omitempty"` // nil until it is shown
	End        invite.State       `json:"end,omitzero"`   // if it was cancelled, or the card is unfit
	Joined     bool               `json:"joined,omitempty"`
}

// invitations are a node's. They are its network's guests.
type invitations struct {
	node *Node
	path string

	mu      sync.Mutex
	all     []*invitation                           // guarded by mu, as are those that it points to
	changed chan struct{}                           // guarded by mu; closed and replaced when an invitation changes
	talks   map[notice.PublicKey]context.CancelFunc // guarded by mu: the conversation with each guest
}

func openInvitations(n *Node, path string) (*invitations, error) {
	v := &invitations{node: n, path: path, changed: make(chan struct{}), talks: make(map[notice.PublicKey]context.CancelFunc)}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	} else if err != nil {
		return nil, err
	}
	if info.Size() > maxInvited {
		return nil, fmt.Errorf("%s: %d bytes, want at most %d", path, info.Size(), maxInvited)
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &v.all, json.RejectUnknownMembers(true))
	}
	for i := 0; i < len(v.all) && err == nil; i++ {
		err = v.all[i].check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// check refuses what is no invitation that a node gave out.
func (in *invitation) check() error {
	switch {
	case in == nil:
		return errors.New("an invitation is null")
	case in.End != "" && in.End != invite.Cancelled && in.End != invite.Unfit:
		return fmt.Errorf("the invitation of %.80q has ended as %.20q, expected %s or %s", in.Name, in.End, invite.Cancelled, invite.Unfit)
	case in.Card != nil:
		if err := invite.CheckCard(*in.Card); err != nil {
			return err
		}
	}
	return notice.CheckName(in.Name)
}

// update changes the invitations by do and keeps what comes of it. If that cannot be kept, nothing has changed.
func (v *invitations) update(do func() error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := make([]*invitation, len(v.all))
	for i, in := range v.all {
		was := *in
		before[i] = &was
	}
	err := do()
	if err == nil {
		v.all = slices.DeleteFunc(v.all, func(in *invitation) bool { return now().After(in.Expires.Add(toldFor)) })
		var b []byte
		if b, err = json.Marshal(v.all); err == nil {
			err = writeFile(v.path, b)
		}
	}
	if err != nil {
		v.all = before
		return err
	}
	close(v.changed)
	v.changed = make(chan struct{})
	return nil
}

// of returns the invitation of a guest, or nil. v.mu is held.
func (v *invitations) of(guest notice.PublicKey) *invitation {
	for _, in := range v.all {
		if in.Guest == guest {
			return in
		}
	}
	return nil
}

// state says how an invitation stands; empty: it waits to be used.
func (v *invitations) state(in *invitation) invite.State {
	switch {
	case in.End != "":
		return in.End
	case in.Card != nil:
		// A member that was removed since has been admitted all the same: its code asks for nothing any more.
		for _, n := range v.node.ledger.Charters() {
			if m, ok := n.Body.(*notice.Charter).Named(in.Name); ok && m.Equal(*in.Card) {
				return invite.Admitted
			}
		}
		return invite.Waiting
	case now().After(in.Expires):
		return invite.Expired
	}
	return ""
}

// show is an invitation for people. v.mu is held.
func (v *invitations) show(in *invitation) Invitation {
	i := Invitation{Name: in.Name, Expires: in.Expires, State: v.state(in), Card: in.Card, Joined: in.Joined}
	if in.Card != nil {
		i.Fingerprint = invite.Fingerprint(v.node.self, v.node.ledger.Root(), *in.Card, in.Theirs, in.Nonce)
	}
	if i.State == invite.Waiting {
		i.Detail = v.detail(*in.Card)
	}
	return i
}

// detail says what the request of a card waits for.
func (v *invitations) detail(card notice.Member) string {
	for _, p := range v.node.ledger.Proposals() {
		if m, ok := p.Body.(*notice.Charter).Named(card.Name); ok && m.Equal(card) {
			if current, err := v.node.current(); err == nil {
				return Describe(p, current).Lacking()
			}
		}
	}
	return "a steward must compare the fingerprint and sign"
}

// Expects implements [p2p.Guests]. Those whose invitation has ended are let in too, to be told so.
func (v *invitations) Expects(guest notice.PublicKey) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.of(guest) != nil
}

// Receive implements [p2p.Guests]. A guest that comes again ends its conversation before.
func (v *invitations) Receive(ctx context.Context, guest notice.PublicKey, s p2p.Stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	v.mu.Lock()
	if before := v.talks[guest]; before != nil {
		before()
	}
	v.talks[guest] = cancel
	v.mu.Unlock()
	if err := invite.Answer(ctx, s, &reception{v, guest}); err != nil && ctx.Err() == nil {
		v.node.log.Info("a guest's visit has ended", slog.Any("error", err))
	}
}

// A reception is one guest's conversation.
type reception struct {
	*invitations
	guest notice.PublicKey
}

// Greet implements [invite.Host].
func (r *reception) Greet(c invite.Commitment) (g invite.Greeting, err error) {
	n := r.node
	g = invite.Greeting{Consortium: n.ledger.Charter().Name, Root: n.ledger.Root(), Member: n.Member()}
	err = r.update(func() error {
		in := r.of(r.guest)
		if in == nil {
			return errors.New("the invitation has gone")
		}
		g.Nonce = in.Nonce
		switch state := r.state(in); {
		case in.Commitment != nil && *in.Commitment != c:
			g.Refused = invite.Used
		case state == invite.Waiting || state == invite.Admitted:
		case state != "":
			g.Refused = state
		default:
			in.Commitment = &c
		}
		return nil
	})
	if g.Refused != "" {
		g = invite.Greeting{Refused: g.Refused}
	}
	return g, err
}

// Request implements [invite.Host].
func (r *reception) Request(card notice.Member, nonce invite.Nonce) error {
	return r.update(func() error {
		in := r.of(r.guest)
		if in == nil {
			return errors.New("the invitation has gone")
		}
		if in.Card != nil {
			return nil // the same one, since it fits the commitment
		}
		if in.Card, in.Theirs = &card, nonce; r.state(in) != invite.Admitted && (card.Name != in.Name || r.taken(card)) {
			in.End = invite.Unfit
		}
		return nil
	})
}

// taken reports whether the name or a key of a card is somebody's on the charter, or will be on its next version.
func (r *reception) taken(card notice.Member) bool {
	keys := make(map[notice.PublicKey]bool)
	for _, s := range seats(r.node.ledger) {
		keys[s.Publishing], keys[s.Node] = true, true
	}
	for _, m := range r.node.ledger.Charter().Members {
		if m.Name == card.Name {
			return true
		}
		for _, k := range m.Keys() {
			keys[k] = true
		}
	}
	return slices.ContainsFunc(card.Keys(), func(k notice.PublicKey) bool { return keys[k] })
}

// Stands implements [invite.Host].
func (r *reception) Stands(ctx context.Context) (w invite.Word, chain []*notice.Notice, changed <-chan struct{}, err error) {
	ledger := r.node.ledger.Changed()
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.of(r.guest)
	if in == nil {
		return w, nil, nil, errors.New("the invitation has gone")
	}
	w.State = r.state(in)
	switch w.State {
	case invite.Waiting:
		w.Detail = r.detail(*in.Card)
	case invite.Admitted:
		current := r.node.ledger.Charter().Version
		for _, n := range r.node.ledger.Charters() {
			if n.Body.(*notice.Charter).Version <= current {
				chain = append(chain, n)
			}
		}
	case invite.Unfit:
		w.Detail = "its name is not " + in.Name + ", or it has a key or a name that is on the charter"
	}
	return w, chain, either(ctx, ledger, r.changed), nil
}

// either returns a channel that is closed once one of the two is, or ctx ends.
func either(ctx context.Context, a, b <-chan struct{}) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		select {
		case <-a:
		case <-b:
		case <-ctx.Done():
		}
	}()
	return c
}

// Kept implements [invite.Host].
func (r *reception) Kept() error {
	return r.update(func() error {
		if in := r.of(r.guest); in != nil {
			in.Joined = true
		}
		return nil
	})
}

// Invite implements [Control].
func (n *Node) Invite(_ context.Context, r InviteRequest) (i Invited, err error) {
	if err := n.mayDecide(); err != nil {
		return i, err
	} else if _, is := n.ledger.Charter().Named(r.Name); is {
		return i, fmt.Errorf("%s is on the charter already", r.Name)
	}
	// Who could not sign the admission invites nobody.
	if _, err := n.current(); err != nil {
		return i, err
	}
	if _, _, err := n.listedKey(n.ledger.Charter()); err != nil {
		return i, err
	}
	addrs, err := n.reachedAt(r.Addresses)
	if err != nil {
		return i, err
	}
	code, err := invite.New(r.Name, n.self, n.ledger.Root(), now().Add(invite.Lifetime), addrs...)
	if err != nil {
		return i, err
	}
	err = n.invited.update(func() error {
		standing := 0
		for _, in := range n.invited.all {
			state := n.invited.state(in)
			if state != "" && state != invite.Waiting {
				continue
			}
			if standing++; in.Name == r.Name {
				return fmt.Errorf("%s has an invitation that stands: take it back with `chorus invite --cancel %s`", r.Name, r.Name)
			}
		}
		if standing >= maxInvitations {
			return fmt.Errorf("%d invitations stand, which is the most", standing)
		}
		n.invited.all = append(n.invited.all, &invitation{
			Guest: notice.PublicKeyOf(code.Key()), Name: r.Name, Expires: code.Expires, Nonce: invite.NewNonce(),
		})
		return nil
	})
	i = Invited{Code: code.String(), Expires: code.Expires}
	for _, a := range addrs {
		i.Addresses = append(i.Addresses, a.String())
	}
	return i, err
}

// reachedAt returns the addresses that a guest is given: those said, or those of this node, the ones that others are most likely to reach first.
func (n *Node) reachedAt(said []string) (addrs []multiaddr.Multiaddr, err error) {
	own := len(said) == 0
	if own {
		said = n.host.Addrs()
	}
	for _, text := range said {
		a, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", text, err)
		}
		if a, _ = multiaddr.SplitFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_P2P }); len(a) > 0 {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("this node listens nowhere, so that no guest can reach it: name an address under `listen` in %s", n.home.config())
	}
	if own {
		rank := func(a multiaddr.Multiaddr) int {
			switch {
			case manet.IsIPLoopback(a):
				return 3
			case manet.IsIP6LinkLocal(a):
				return 2
			case manet.IsPublicAddr(a):
				return 0
			}
			return 1
		}
		slices.SortStableFunc(addrs, func(a, b multiaddr.Multiaddr) int { return cmp.Compare(rank(a), rank(b)) })
		// An address that only this machine reaches serves where there is no other.
		best := rank(addrs[0])
		addrs = slices.DeleteFunc(addrs, func(a multiaddr.Multiaddr) bool { return rank(a) > max(best, 1) })
		addrs = addrs[:min(len(addrs), invite.MaxAddresses)]
	}
	return addrs, nil
}

// Invitations implements [Control].
func (n *Node) Invitations(context.Context) ([]Invitation, error) {
	n.invited.mu.Lock()
	defer n.invited.mu.Unlock()
	out := []Invitation{}
	for _, in := range n.invited.all {
		out = append(out, n.invited.show(in))
	}
	return out, nil
}

// CancelInvitation implements [Control].
func (n *Node) CancelInvitation(_ context.Context, name string) error {
	return n.invited.update(func() error {
		for _, in := range n.invited.all {
			if state := n.invited.state(in); in.Name == name && (state == "" || state == invite.Waiting) {
				in.End = invite.Cancelled
				return nil
			}
		}
		return fmt.Errorf("no invitation of %s stands: `chorus invite --list` shows them", name)
	})
}
