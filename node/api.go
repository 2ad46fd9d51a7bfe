package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"chorus/node/openai"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/ipfs/go-cid"
)

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

type awaitEndRequest struct {
	Offers []cid.Cid `json:"offers"`
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
	mux.Handle("POST /chorus/v1/await-end", respond(log, func(r *http.Request, q awaitEndRequest) (Status, error) {
		return c.AwaitEnd(r.Context(), q.Offers)
	}))
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
var causes = map[string]error{"not reconciled": ErrNotReconciled, "not spread": ErrNotSpread, "not a steward": ErrNotSteward, "pending": ErrPending, "unlisted": ErrUnlisted, "forked": ErrForked, "replaced": ErrReplaced, "removed": ErrRemoved, "on offer": ErrOnOffer, "locked": ErrLocked, "passphrase": ErrPassphrase}

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
			if !errors.Is(r.Context().Err(), context.Canceled) { // or the command is gone
				log.Warn("command", slog.String("path", r.URL.Path), slog.Any("error", err))
			}
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
