package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"
	"chorus/node/invite"
)

// A guest is a home that asks to be admitted.
type guest struct {
	*consortium
	home     Home
	code     *invite.Code
	greeted  chan string // fingerprints
	heard    chan invite.Word
	done     chan error
	hangUp   context.CancelFunc
	settings Config
}

// invites has a member invite an organisation.
func (c *consortium) invites(member, name string) *guest {
	c.Helper()
	i, err := c.nodes[member].Invite(c.Context(), InviteRequest{Name: name})
	c.must(err)
	code, err := invite.Parse(i.Code)
	c.must(err)
	g := &guest{consortium: c, home: Home(filepath.Join(c.TempDir(), name)), code: code,
		settings: Config{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, API: "127.0.0.1:0"}}
	c.homes[name] = g.home
	return g
}

// asks begins to ask, or goes on with it where code is nil.
func (g *guest) asks(code *invite.Code) {
	ctx, cancel := context.WithCancel(context.Background())
	g.greeted, g.heard, g.done, g.hangUp = make(chan string, 100), make(chan invite.Word, 100), make(chan error, 1), cancel
	g.Cleanup(cancel)
	go func() {
		g.done <- g.home.Join(ctx, Joining{Code: code, Config: g.settings,
			Greeted:     func(_ invite.Greeting, fingerprint string) { g.greeted <- fingerprint },
			Heard:       func(w invite.Word) { g.heard <- w },
			Unreachable: func(error) {},
		})
	}()
}

// next returns what comes from a channel.
func next[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: nothing in 30 s", what)
	}
	return v
}

// poll returns once done reports true, of what no node announces.
func (c *consortium) poll(what string, done func() bool) {
	c.Helper()
	every, timeout := time.NewTicker(10*time.Millisecond), time.After(30*time.Second)
	defer every.Stop()
	for !done() {
		select {
		case <-every.C:
		case <-timeout:
			c.Fatalf("%s: not in 30 s", what)
		}
	}
}

// invitation returns the newest invitation of an organisation, as a member's node has it.
func (c *consortium) invitation(member, name string) (last Invitation) {
	c.Helper()
	all, err := c.nodes[member].Invitations(c.Context())
	c.must(err)
	for _, i := range all {
		if i.Name == name {
			last = i
		}
	}
	return last
}

func TestGuestIsAdmittedOnceAStewardHasSigned(t *testing.T) {
	c := found(t, terms{}, "hub")
	c.up("hub")
	g := c.invites("hub", "clinic")
	g.asks(g.code)
	fingerprint := next(t, "greeting", g.greeted)
	if w := next(t, "word", g.heard); w.State != invite.Waiting || !strings.Contains(w.Detail, "sign") {
		t.Errorf("the guest hears %+v", w)
	}
	i := c.invitation("hub", "clinic")
	if i.State != invite.Waiting || i.Card == nil || i.Fingerprint != fingerprint || len(fingerprint) != 14 {
		t.Fatalf("hub sees %+v, the guest %q", i, fingerprint)
	}
	select {
	case err := <-g.done:
		t.Fatalf("joined without a signature: %v", err)
	default:
	}
	s, err := c.nodes["hub"].Propose(t.Context(), Change{Add: []notice.Member{*i.Card}})
	c.must(err)
	if !s.Holds || s.Charter.Version != 2 || s.Lacking() != "" || !slices.Equal(s.Changes, []string{"admits clinic"}) {
		t.Errorf("signed: %+v", s)
	}
	c.must(next(t, "admission", g.done))
	c.poll("the guest's receipt", func() bool { return c.invitation("hub", "clinic").Joined })
	if got := c.invitation("hub", "clinic").State; got != invite.Admitted {
		t.Errorf("the invitation is %s", got)
	}

	// The new member's node is let in at once, learns the anchor, and both can publish.
	config, err := g.home.Config()
	c.must(err)
	if config.Member != "clinic" || len(config.Peers) != 1 {
		t.Errorf("config: %+v", config)
	}
	c.start("clinic", Options{}, config.Peers...)
	offer, _ := c.publish("clinic", 7)
	c.await("use", uses(offer), "hub", "clinic")
	mine, _ := c.publish("hub", 8)
	c.await("use", uses(mine), "hub", "clinic")
	c.down("clinic")
	c.start("clinic", Options{}, config.Peers...)

	// The code is used up, for everybody.
	thief := &guest{consortium: c, home: Home(filepath.Join(t.TempDir(), "thief")), settings: g.settings}
	thief.asks(g.code)
	var no *invite.Refusal
	if err := next(t, "refusal", thief.done); !errors.As(err, &no) || no.State != invite.Used {
		t.Errorf("a second use of the code: %v", err)
	}

	// Removal reaches both nodes and closes the connection.
	_, err = c.nodes["hub"].Propose(t.Context(), Change{Remove: []string{"clinic"}})
	c.must(err)
	c.await("end of use", func(n *Node) bool { return !uses(offer)(n) }, "hub")
	c.poll("no connection", func() bool {
		return len(c.nodes["hub"].Host().Connected()) == 0 && len(c.nodes["clinic"].Host().Connected()) == 0
	})
	if _, named := c.nodes["clinic"].Ledger().Charter().Named("clinic"); named {
		t.Error("the one who was removed has not heard of it")
	}
	all := c.doctor(c.nodes["clinic"])
	if got := finding(all, "feed"); !strings.Contains(got, "clinic is not on the charter any more") || strings.Contains(finding(all, "keys"), "rotate") {
		t.Errorf("the doctor of the one who was removed says %+v", all)
	}

	// It does not ask again by having been removed, and its address in others' configuration keeps them from nothing.
	if all, err := c.nodes["hub"].Charters(t.Context()); err != nil || len(all.Requests) > 0 {
		t.Errorf("requests after the removal: %+v, %v", all.Requests, err)
	}
	former := c.nodes["clinic"].Host().Addrs()
	c.down("hub")
	c.start("hub", Options{}, former...)
	if got := finding(c.doctor(c.nodes["hub"]), "members"); !strings.Contains(got, former[0]) || !strings.Contains(got, "is not the node of a member") {
		t.Errorf("members: %q", got)
	}
}

func TestGuestThatHangsUpGoesOnWithItsRequest(t *testing.T) {
	c := found(t, terms{}, "hub")
	c.up("hub")
	g := c.invites("hub", "clinic")
	g.asks(g.code)
	before := next(t, "greeting", g.greeted)
	next(t, "word", g.heard)
	g.hangUp()
	if err := next(t, "end", g.done); !errors.Is(err, context.Canceled) {
		t.Errorf("hung up: %v", err)
	}
	// The recovery key was taken elsewhere meanwhile, and hub's node has started again.
	c.must(os.Remove(g.home.path(recoveryKey)))
	listen := c.nodes["hub"].Host().Addrs()[0]
	c.down("hub")
	config, err := c.homes["hub"].Config()
	c.must(err)
	config.Listen = []string{strings.Split(listen, "/p2p/")[0]}
	c.must(c.homes["hub"].SetConfig(config))
	c.up("hub")
	g.asks(nil)
	if again := next(t, "greeting", g.greeted); again != before {
		t.Errorf("the fingerprint is %s, it was %s", again, before)
	}
	next(t, "word", g.heard)
	_, err = c.nodes["hub"].Propose(t.Context(), Change{Add: []notice.Member{*c.invitation("hub", "clinic").Card}})
	c.must(err)
	c.must(next(t, "admission", g.done))
	g.asks(nil)
	if err := next(t, "end", g.done); !errors.Is(err, ErrNotJoining) {
		t.Errorf("joined twice: %v", err)
	}
}

func TestInvitationsThatDoNotStandAreRefusedWithAWord(t *testing.T) {
	c := found(t, terms{}, "hub", "north")
	c.up("hub", "north")
	var no *invite.Refusal

	cancelled := c.invites("hub", "clinic")
	if _, err := c.nodes["hub"].Invite(t.Context(), InviteRequest{Name: "clinic"}); err == nil || !strings.Contains(err.Error(), "--cancel clinic") {
		t.Errorf("two invitations of one: %v", err)
	}
	cancelled.asks(cancelled.code)
	next(t, "word", cancelled.heard)
	c.must(c.nodes["hub"].CancelInvitation(t.Context(), "clinic"))
	if err := next(t, "refusal", cancelled.done); !errors.As(err, &no) || no.State != invite.Cancelled {
		t.Errorf("cancelled while it waits: %v", err)
	}
	cancelled.asks(nil)
	if err := next(t, "refusal", cancelled.done); !errors.As(err, &no) || no.State != invite.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
	if err := c.nodes["hub"].CancelInvitation(t.Context(), "clinic"); err == nil {
		t.Error("cancelled twice")
	}

	if _, err := c.nodes["north"].Invite(t.Context(), InviteRequest{Name: "clinic"}); !errors.Is(err, ErrNotSteward) {
		t.Errorf("a member that is no steward invites: %v", err)
	}
	if _, err := c.nodes["hub"].Invite(t.Context(), InviteRequest{Name: "north"}); err == nil {
		t.Error("invited who is on the charter")
	}

	expired := c.invites("hub", "east")
	c.must(c.nodes["hub"].invited.update(func() error {
		c.nodes["hub"].invited.all[1].Expires = now().Add(-time.Minute)
		return nil
	}))
	expired.asks(expired.code) // its own clock is behind, so to say
	if err := next(t, "refusal", expired.done); !errors.Is(err, invite.ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	old, err := invite.New("east", c.nodes["hub"].self, c.charter.CID, now().Add(-time.Hour), expired.code.Addresses...)
	c.must(err)
	stale := &guest{consortium: c, home: Home(filepath.Join(t.TempDir(), "stale")), settings: expired.settings}
	stale.asks(old)
	if err := next(t, "refusal", stale.done); !errors.Is(err, invite.ErrExpired) {
		t.Errorf("expired by its own clock: %v", err)
	}

	// A code for another node, or one that nobody gave out.
	strange, err := invite.New("east", c.nodes["north"].self, c.charter.CID, now().Add(time.Hour), expired.code.Addresses...)
	c.must(err)
	lost := &guest{consortium: c, home: Home(filepath.Join(t.TempDir(), "lost")), settings: expired.settings}
	lost.asks(strange)
	if err := next(t, "refusal", lost.done); err == nil || !strings.Contains(err.Error(), "does not know this code") {
		t.Errorf("a code that nobody gave out: %v", err)
	}
}
