package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/openai"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/ipfs/go-cid"
)

// Control is what the commands ask of a node: of one in their own process, a [Node], or of one that
// runs elsewhere on this machine, through a [Client].
type Control interface {
	Status(ctx context.Context) (Status, error)
	Publish(ctx context.Context, p Publication) (cid.Cid, error)
	Revoke(ctx context.Context, offer cid.Cid, reason string) (cid.Cid, error)
	// Account returns the notices, usage and events of the ledger, for people and programs to read.
	Account(ctx context.Context) (Account, error)
	// RecordExport writes to the ledger that an export is about to be made. It refuses one with an expert whose
	// owner does not consent at this moment.
	RecordExport(ctx context.Context, e Export) error
	// Compliance returns who has dropped what a revocation withdraws.
	Compliance(ctx context.Context, revocation cid.Cid) (Compliance, error)
	// Declare signs a notice with the publishing key, and returns its identity once another node has it.
	Declare(ctx context.Context, d Declaration) (cid.Cid, error)
	// Present takes in a revocation, delegation or rotation that was signed elsewhere, and returns its identity once another node has it.
	Present(ctx context.Context, envelope []byte) (cid.Cid, error)
	// Open opens a publishing key that is protected, for as long as the node runs.
	Open(ctx context.Context, passphrase string) error
	// Doctor examines the node and returns what it found, good and bad.
	Doctor(ctx context.Context) ([]Finding, error)
	Membership
}

// A Declaration is what a node signs on request: exactly one of these, without its header.
type Declaration struct {
	Delegation *notice.Delegation `json:"delegation,omitempty"`
	Revocation *notice.Revocation `json:"revocation,omitempty"` // of a key, or a steward's vote
}

// An Export is a folder that holds a copy of the mixture: no revocation reaches it, so that people must.
type Export struct {
	Folder string    `json:"folder"` // absolute
	Offers []cid.Cid `json:"offers"` // whose experts it holds
}

// Status is how a node is doing.
type Status struct {
	Member    string         `json:"member"`
	Charter   string         `json:"charter"` // its name
	Root      cid.Cid        `json:"root"`
	Anchor    cid.Cid        `json:"anchor"`
	API       string         `json:"api,omitempty"` // base URL for local programs
	Addresses []string       `json:"addresses"`
	Connected []string       `json:"connected"`     // members
	Members   []MemberStatus `json:"members"`       // the others on the charter
	Why       string         `json:"why,omitempty"` // if the anchor serves alone, why
	Experts   []Expert       `json:"experts"`       // every offer known
	Keys      []SeatedKey    `json:"keys"`          // this member's, that it has a use for now
	Findings  []Finding      `json:"findings"`      // what is not as it should be, as far as a glance shows
}

// A SeatedKey is a key and what it is to its member.
type SeatedKey struct {
	Key  notice.PublicKey `json:"key"`
	Role ledger.Role      `json:"role"`
}

// MemberStatus is what is known of another member.
type MemberStatus struct {
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`
	Synced    time.Time `json:"synced,omitzero"`         // when this node last had all that its node had; zero: not since the start
	Ahead     float64   `json:"clock_ahead_s,omitempty"` // of its clock, in seconds
	Until     time.Time `json:"until,omitzero"`          // the end of its lease; zero: it has none in force
}

// Expert is where one offer stands and how it is used on this node.
type Expert struct {
	Offer    cid.Cid         `json:"offer"`
	Blob     cid.Cid         `json:"blob"`
	Member   string          `json:"member"`
	Domain   string          `json:"domain"`
	Size     int64           `json:"size"`
	State    ledger.State    `json:"state"`
	Until    time.Time       `json:"until,omitzero"`
	InUse    bool            `json:"in_use"` // part of the mixture now
	Held     bool            `json:"held"`   // the blob is on this node's disk
	Refusal  string          `json:"refusal,omitempty"`
	Reason   string          `json:"reason,omitempty"` // of its revocation
	LastUsed time.Time       `json:"last_used,omitzero"`
	Path     string          `json:"path"`              // of the blob
	Privacy  *notice.Privacy `json:"privacy,omitempty"` // as its member claims; nil for none
	Exports  []string        `json:"exports,omitempty"` // folders on this machine that were exported with it and are still there
}

// Words says where the offer stands, and if it may not be used, why.
func (e Expert) Words() string {
	switch {
	case e.Refusal != "":
		return "refused: " + e.Refusal
	case e.State == ledger.Active:
		return "leased until " + e.Until.Local().Format(time.DateTime)
	case e.State == ledger.Revoked && e.Reason != "":
		return "revoked: " + e.Reason
	case e.State == ledger.Lapsed && e.Until.IsZero():
		return "lapsed: under no lease that counts"
	case e.State == ledger.Lapsed:
		return "lapsed: its lease ended at " + e.Until.Local().Format(time.DateTime)
	case e.State == ledger.Suspended:
		return "suspended: a key of its member has signed two notices with one number"
	case e.State == ledger.Left:
		return "left: its member, or the key that offered it, is not on the charter"
	case e.State == ledger.Excess:
		return "excess: its member had offered as many that day as the charter allows"
	}
	return string(e.State)
}

// Account is a node's ledger in a form to read.
type Account struct {
	Notices []NoticeLine   `json:"notices"`
	Usage   []UsageLine    `json:"usage"`
	Events  []ledger.Event `json:"events"`
}

// NoticeLine is one notice.
type NoticeLine struct {
	CID    cid.Cid   `json:"cid"`
	Kind   string    `json:"kind"`
	Member string    `json:"member,omitempty"` // empty for a charter
	Seq    uint64    `json:"seq,omitempty"`
	Time   time.Time `json:"time,omitzero"`
	Body   any       `json:"body"`
}

// UsageLine is how much one expert was used on this node, in all.
type UsageLine struct {
	Expert string  `json:"expert"` // blob CID, or "anchor"
	Member string  `json:"member,omitempty"`
	Domain string  `json:"domain,omitempty"`
	Tokens uint64  `json:"tokens"`
	Weight uint64  `json:"weight"`
	Share  float64 `json:"share"` // of all weight, from 0 to 1
}

// Status implements [Control].
func (n *Node) Status(ctx context.Context) (Status, error) {
	s := OfflineStatus(n.home, n.Member(), n.ledger)
	s.Member, s.Addresses, s.Connected, s.Why = n.Member(), n.host.Addrs(), n.host.Connected(), n.Mixture().Why
	if n.api != nil {
		s.API = n.api.url()
	}
	peers := n.host.Peers()
	for i := range s.Members {
		m := &s.Members[i]
		m.Connected = slices.Contains(s.Connected, m.Name)
		for _, p := range peers {
			if p.Member == m.Name {
				m.Synced, m.Ahead = p.Synced, p.Offset.Seconds()
			}
		}
	}
	for i := range s.Experts {
		e := &s.Experts[i]
		e.LastUsed = n.LastUsed(e.Offer)
		for _, a := range n.Mixture().Experts {
			e.InUse = e.InUse || a.Offer == e.Offer
		}
	}
	x := &examination{ctx, n.home, n.ledger, s, n, now()}
	s.Findings = slices.DeleteFunc(x.examine(false), func(f Finding) bool { return f.Verdict == Fine })
	return s, nil
}

// OfflineStatus is what a ledger alone says, while no node runs.
func OfflineStatus(home Home, member string, l *ledger.Ledger) Status {
	c := l.Charter()
	s := Status{Member: member, Charter: c.Name, Root: l.Root(), Anchor: c.Anchor, Why: "the node is not running"}
	refusals := make(map[cid.Cid]string)
	if verdicts, err := l.Verdicts(); err == nil {
		for _, v := range verdicts {
			refusals[v.Offer] = v.Reason
		}
	}
	events, _ := l.Events() // what cannot be read is not shown, here as above
	folders := exports(events)
	for _, st := range l.Standings(now()) {
		e := Expert{
			Offer: st.Notice, Blob: st.Offer.Blob, Member: st.Member, Domain: st.Offer.Domain, Size: st.Offer.Size,
			State: st.State, Until: st.Until, Refusal: refusals[st.Notice], Path: home.Blob(st.Offer.Blob), Privacy: st.Offer.Privacy,
		}
		_, err := os.Stat(e.Path)
		e.Held = err == nil
		e.Exports = folders[st.Notice]
		if st.Revocation != nil {
			e.Reason = st.Revocation.Reason
		}
		s.Experts = append(s.Experts, e)
	}
	for k, role := range l.Keys(member) {
		s.Keys = append(s.Keys, SeatedKey{k, role})
	}
	slices.SortFunc(s.Keys, func(a, b SeatedKey) int { return notice.CompareKey(a.Key, b.Key) })
	for _, m := range c.Members {
		if m.Name == member {
			continue
		}
		known := MemberStatus{Name: m.Name}
		for _, e := range s.Experts {
			if e.Member == m.Name && e.State == ledger.Active {
				known.Until = e.Until
			}
		}
		s.Members = append(s.Members, known)
	}
	return s
}

// RecordExport implements [Control].
func (n *Node) RecordExport(_ context.Context, e Export) error { return RecordExport(n.ledger, e) }

// RecordExport does on a ledger what [Control] says.
func RecordExport(l *ledger.Ledger, e Export) error {
	standings := l.Standings(now())
	for _, offer := range e.Offers {
		i := slices.IndexFunc(standings, func(st ledger.Standing) bool { return st.Notice == offer && st.State == ledger.Active })
		if i < 0 {
			return fmt.Errorf("the offer %s does not stand, so its expert may not be exported", offer)
		}
		err := l.Record(ledger.Event{Time: now(), Kind: ledger.EventExported, Expert: standings[i].Offer.Blob, Offer: offer, Detail: e.Folder})
		if err != nil {
			return err
		}
	}
	return nil
}

// Account implements [Control].
func (n *Node) Account(context.Context) (Account, error) { return ReadAccount(n.ledger) }

// ReadAccount reads a ledger.
func ReadAccount(l *ledger.Ledger) (a Account, err error) {
	members := make(map[string]string)
	for _, m := range l.Charter().Members {
		members[m.Publishing.String()] = m.Name
	}
	for n, err := range l.Notices() {
		if err != nil {
			return a, err
		}
		line := NoticeLine{CID: n.CID, Kind: string(n.Kind), Body: n.Body}
		if h := n.Header(); h != nil {
			line.Member, line.Seq, line.Time = members[h.Key.String()], h.Seq, h.Time
			if line.Member == "" { // a key that was lent powers, say
				line.Member, _, _ = l.Seat(h.Key)
			}
		}
		a.Notices = append(a.Notices, line)
	}
	usage, err := l.Usage()
	if err != nil {
		return a, err
	}
	offers := l.Standings(now())
	var total uint64
	for _, u := range usage {
		total += u.Weight
	}
	for _, u := range usage {
		line := UsageLine{Expert: "anchor", Tokens: u.Tokens, Weight: u.Weight, Share: float64(u.Weight) / float64(max(1, total))}
		if u.Expert.Defined() {
			line.Expert = u.Expert.String()
		}
		for _, st := range offers {
			if st.Offer.Blob == u.Expert {
				line.Member, line.Domain = st.Member, st.Offer.Domain
			}
		}
		a.Usage = append(a.Usage, line)
	}
	a.Events, err = l.Events()
	return a, err
}

// contact is control.json: how the commands reach a node that runs. Whoever can read it may steer
// the node, so only its owner can.
type contact struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

// api is the HTTP server of a node.
type api struct {
	server   *http.Server
	listener net.Listener
	contact  string             // file
	end      context.CancelFunc // of what requests do
	done     chan error
	conns    sync.WaitGroup // connections whose requests may use the node
}

func (a *api) url() string { return "http://" + a.listener.Addr().String() }

// close ends the server and returns when nothing that it was asked uses the node any more.
func (a *api) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if a.server.Shutdown(ctx) != nil {
		a.end()
		_ = a.server.Close() // ends the streams under way
	}
	err := errors.Join(<-a.done, os.Remove(a.contact))
	a.conns.Wait()
	a.end()
	return err
}

// count keeps conns. It is the server's ConnState hook.
func (a *api) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		a.conns.Add(1)
	case http.StateClosed:
		a.conns.Done()
	}
}

// serve starts the node's HTTP server: the OpenAI surface for local programs, and the control
// surface for the commands of this home.
func (n *Node) serve() (*api, error) {
	listener, err := net.Listen("tcp", n.config.API)
	if err != nil {
		return nil, fmt.Errorf("%w: set another `api` in %s", err, n.home.config())
	}
	a := &api{listener: listener, contact: n.home.control(), done: make(chan error, 1)}
	token := rand.Text()
	b, err := json.Marshal(contact{a.url(), token})
	if err == nil {
		err = writeFile(a.contact, b)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	var ctx context.Context
	ctx, a.end = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.Handle("/v1/", openai.New(n, n.log))
	mux.Handle("/chorus/v1/", authorized(token, controlHandler(n, n.log)))
	a.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnState: a.count,
	}
	go func() {
		err := a.server.Serve(listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		a.done <- err
	}()
	return a, nil
}

func authorized(token string, next http.Handler) http.Handler {
	want := []byte("Bearer " + token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "this is for the commands of the node's owner", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type revokeRequest struct {
	Offer  cid.Cid `json:"offer,omitzero"`
	Reason string  `json:"reason"`
}

type complianceRequest struct {
	Revocation cid.Cid `json:"revocation"`
}

type presentRequest struct {
	Envelope []byte `json:"envelope"`
}

type openRequest struct {
	Passphrase string `json:"passphrase"`
}

func controlHandler(c Control, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /chorus/v1/status", respond(log, func(r *http.Request, _ struct{}) (Status, error) { return c.Status(r.Context()) }))
	mux.Handle("GET /chorus/v1/account", respond(log, func(r *http.Request, _ struct{}) (Account, error) { return c.Account(r.Context()) }))
	mux.Handle("POST /chorus/v1/publish", respond(log, func(r *http.Request, p Publication) (cid.Cid, error) { return c.Publish(r.Context(), p) }))
	mux.Handle("POST /chorus/v1/revoke", respond(log, func(r *http.Request, q revokeRequest) (cid.Cid, error) {
		return c.Revoke(r.Context(), q.Offer, q.Reason)
	}))
	mux.Handle("POST /chorus/v1/compliance", respond(log, func(r *http.Request, q complianceRequest) (Compliance, error) {
		return c.Compliance(r.Context(), q.Revocation)
	}))
	mux.Handle("POST /chorus/v1/declare", respond(log, func(r *http.Request, q Declaration) (cid.Cid, error) { return c.Declare(r.Context(), q) }))
	mux.Handle("POST /chorus/v1/present", respond(log, func(r *http.Request, q presentRequest) (cid.Cid, error) {
		return c.Present(r.Context(), q.Envelope)
	}))
	mux.Handle("POST /chorus/v1/open", respond(log, func(r *http.Request, q openRequest) (struct{}, error) {
		return struct{}{}, c.Open(r.Context(), q.Passphrase)
	}))
	mux.Handle("GET /chorus/v1/doctor", respond(log, func(r *http.Request, _ struct{}) ([]Finding, error) { return c.Doctor(r.Context()) }))
	mux.Handle("POST /chorus/v1/export", respond(log, func(r *http.Request, e Export) (struct{}, error) {
		return struct{}{}, c.RecordExport(r.Context(), e)
	}))
	membershipHandlers(mux, c, log)
	return mux
}

// Bounds of the bodies of the control surface, in bytes; an account can be long.
const (
	maxControlRequest  = 1 << 20
	maxControlResponse = 1 << 28
)

// deadlineHeader says when the client's time is up, as RFC 3339: the node can say what it was spent
// on, and the client cannot.
const deadlineHeader = "Chorus-Deadline"

// wire is how the control surface and the commands write JSON: CIDs as plain strings, no list or map as
// null, and the body of a notice with its fields in their order.
var wire = json.JoinOptions(
	json.Deterministic(true),
	json.WithMarshalers(json.MarshalToFunc(func(e *jsontext.Encoder, id cid.Cid) error {
		if !id.Defined() {
			return e.WriteToken(jsontext.String(""))
		}
		return e.WriteToken(jsontext.String(id.String()))
	})),
	json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFunc(func(b []byte, id *cid.Cid) (err error) {
			var s string
			if err := json.Unmarshal(b, &s); err != nil || s == "" {
				return err
			}
			*id, err = cid.Decode(s)
			return err
		}),
		json.UnmarshalFunc(func(b []byte, body *any) error {
			*body = jsontext.Value(bytes.Clone(b))
			return nil
		}),
	)),
)

// WriteJSON writes v as an indented line of JSON for programs, with CIDs as plain strings.
func WriteJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v, wire, jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// A reply is the answer to a command. There can be both an answer and an error, such as a
// revocation that no other member has yet.
type reply[A any] struct {
	Answer A      `json:"answer"`
	Error  string `json:"error,omitzero"`
	Cause  string `json:"cause,omitzero"` // of causes, if it is there
}

// causes are the errors that a [Client] returns as the [Node] does.
var causes = map[string]error{"not reconciled": ErrNotReconciled, "not spread": ErrNotSpread, "not a steward": ErrNotSteward, "forked": ErrForked, "replaced": ErrReplaced, "locked": ErrLocked, "passphrase": ErrPassphrase}

// respond answers with what do returns, as JSON. The owner may see every error in full.
func respond[Q, A any](log *slog.Logger, do func(*http.Request, Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if r.Method == http.MethodPost {
			if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxControlRequest), &q, wire, json.RejectUnknownMembers(true)); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		if text := r.Header.Get(deadlineHeader); text != "" {
			at, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			ctx, cancel := context.WithDeadline(r.Context(), at)
			defer cancel()
			r = r.WithContext(ctx)
		}
		answer, err := do(r, q)
		a := reply[A]{Answer: answer}
		status := http.StatusOK
		if err != nil {
			log.Warn("command", slog.String("path", r.URL.Path), slog.Any("error", err))
			status, a.Error = http.StatusUnprocessableEntity, err.Error()
			for name, cause := range causes {
				if errors.Is(err, cause) {
					a.Cause = name
				}
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.MarshalWrite(w, a, wire) // the command is gone if this fails
	})
}

// A Client is a [Control] of a node that runs in another process on this machine.
type Client struct{ contact }

// ErrNotRunning is returned by [Dial] if the home's node does not run.
var ErrNotRunning = errors.New("the node is not running")

// A remoteError is an error that a running node answered.
type remoteError struct {
	text  string
	cause error // of causes, or nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.cause }

const (
	dialTimeout = 5 * time.Second // a node says how it is at once
	// grace is how long a client waits past its deadline for the node to say what the time was spent on.
	grace = 2 * time.Second
)

// Dial finds the running node of a home.
func Dial(ctx context.Context, home Home) (*Client, error) {
	b, err := os.ReadFile(home.control())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", home, ErrNotRunning)
	} else if err != nil {
		return nil, err
	}
	c := new(Client)
	if err := json.Unmarshal(b, &c.contact); err != nil {
		return nil, fmt.Errorf("%s: %w", home.control(), err)
	}
	asking, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if s, err := c.Status(asking); ctx.Err() != nil {
		return nil, ctx.Err()
	} else if err != nil || !s.Root.Defined() {
		// It was killed: its file is still here, and nobody, or a stranger, listens.
		return nil, fmt.Errorf("%s: %w", home, ErrNotRunning)
	}
	return c, nil
}

// Status implements [Control].
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "status", nil)
}

// Account implements [Control].
func (c *Client) Account(ctx context.Context) (Account, error) {
	return call[Account](ctx, c, http.MethodGet, "account", nil)
}

// Publish implements [Control].
func (c *Client) Publish(ctx context.Context, p Publication) (id cid.Cid, err error) {
	if p.Path, err = filepath.Abs(p.Path); err != nil {
		return id, err
	}
	return call[cid.Cid](ctx, c, http.MethodPost, "publish", p)
}

// Revoke implements [Control].
func (c *Client) Revoke(ctx context.Context, offer cid.Cid, reason string) (cid.Cid, error) {
	return call[cid.Cid](ctx, c, http.MethodPost, "revoke", revokeRequest{offer, reason})
}

// Compliance implements [Control].
func (c *Client) Compliance(ctx context.Context, revocation cid.Cid) (Compliance, error) {
	return call[Compliance](ctx, c, http.MethodPost, "compliance", complianceRequest{revocation})
}

// Declare implements [Control].
func (c *Client) Declare(ctx context.Context, d Declaration) (cid.Cid, error) {
	return call[cid.Cid](ctx, c, http.MethodPost, "declare", d)
}

// Present implements [Control].
func (c *Client) Present(ctx context.Context, envelope []byte) (cid.Cid, error) {
	return call[cid.Cid](ctx, c, http.MethodPost, "present", presentRequest{envelope})
}

// Open implements [Control].
func (c *Client) Open(ctx context.Context, passphrase string) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "open", openRequest{passphrase})
	return err
}

// Doctor implements [Control].
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	return call[[]Finding](ctx, c, http.MethodGet, "doctor", nil)
}

// RecordExport implements [Control].
func (c *Client) RecordExport(ctx context.Context, e Export) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "export", e)
	return err
}

// call asks the node what, and returns its answer and its error.
func call[A any](ctx context.Context, c *Client, method, what string, body any) (A, error) {
	var none A
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	in, err := json.Marshal(body, wire)
	if err != nil {
		return none, err
	}
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	defer stop()
	req, err := http.NewRequestWithContext(asking, method, c.URL+"/chorus/v1/"+what, bytes.NewReader(in))
	if err != nil {
		return none, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if at, ok := ctx.Deadline(); ok {
		req.Header.Set(deadlineHeader, at.Format(time.RFC3339Nano))
		late := time.AfterFunc(time.Until(at.Add(grace)), cancel)
		defer late.Stop()
	}
	resp, err := http.DefaultClient.Do(req)
	if ctx.Err() != nil && err != nil {
		return none, ctx.Err()
	} else if err != nil {
		return none, err
	}
	defer resp.Body.Close()
	in, err = io.ReadAll(io.LimitReader(resp.Body, maxControlResponse))
	if err != nil {
		return none, err
	}
	var a reply[A]
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnprocessableEntity {
		return none, errors.New(strings.TrimSpace(string(in[:min(len(in), 4096)])))
	} else if err := json.Unmarshal(in, &a, wire); err != nil {
		return none, fmt.Errorf("the node's answer: %w", err)
	}
	if a.Error != "" {
		return a.Answer, &remoteError{a.Error, causes[a.Cause]}
	}
	return a.Answer, nil
}
