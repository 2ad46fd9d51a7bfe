package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"chorus/ledger"
	"chorus/node"

	"github.com/ipfs/go-cid"
)

// A fakeControl is a running node as a command sees it: one expert, and whether it is in use.
type fakeControl struct {
	*httptest.Server
	offer cid.Cid
	asked chan struct{} // has one once a command waits for its word
	left  chan struct{} // closed once the node says of itself that the expert is not in use
	gone  atomic.Bool   // and once it is not
}

// newFakeControl is the node of the home that it returns.
func newFakeControl(t *testing.T) (f *fakeControl, home string) {
	t.Helper()
	f = &fakeControl{offer: cid.MustParse("bagaaieraihjnsi3gfsus2kqroc5twyftguyzoof3fyslgvhshmrpogvapgua"), asked: make(chan struct{}, 1), left: make(chan struct{})}
	answer := func(w http.ResponseWriter) {
		e := node.Expert{Offer: f.offer, Member: "them", Domain: "cats", State: ledger.Active, InUse: true}
		if f.gone.Load() {
			e.State, e.InUse, e.Reason = ledger.Revoked, false, "a reason"
		}
		io.WriteString(w, `{"answer":`)
		if err := node.WriteJSON(w, node.Status{Root: f.offer, Experts: []node.Expert{e}}); err != nil {
			t.Error(err)
		}
		io.WriteString(w, `}`)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /chorus/v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w) })
	mux.HandleFunc("POST /chorus/v1/await-end", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server does not see that the client has gone
		f.asked <- struct{}{}
		select {
		case <-f.left:
			answer(w)
		case <-r.Context().Done():
		}
	})
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	home = t.TempDir()
	b, err := json.Marshal(map[string]string{"url": f.URL, "token": "x"})
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "control.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, home
}

func TestWorkWithAnExpertEndsWhenTheNodeDoesNotUseIt(t *testing.T) {
	finish := func(context.Context) error { return nil }
	untilEnded := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, tt := range map[string]struct {
		do   func(*fakeControl, context.Context) error
		says string // of the error; empty: there is none
	}{
		"while it is in use":    {func(_ *fakeControl, ctx context.Context) error { return finish(ctx) }, ""},
		"its own error is kept": {func(*fakeControl, context.Context) error { return io.ErrUnexpectedEOF }, "unexpected EOF"},
		"revoked while it works": {func(f *fakeControl, ctx context.Context) error {
			f.gone.Store(true)
			close(f.left)
			return untilEnded(ctx)
		}, "cats of them may not be used any more: revoked: a reason"},
		"revoked, and the word is on its way": {func(f *fakeControl, ctx context.Context) error {
			f.gone.Store(true)
			return finish(ctx)
		}, "cats of them may not be used any more: revoked: a reason"},
		"out of use for a moment": {func(f *fakeControl, ctx context.Context) error {
			close(f.left)
			return untilEnded(ctx)
		}, "for a moment"},
		"the node ends while it works": {func(f *fakeControl, ctx context.Context) error {
			<-f.asked
			f.CloseClientConnections()
			return untilEnded(ctx)
		}, "the node is not running any more"},
		"the node has ended": {func(f *fakeControl, ctx context.Context) error {
			f.Listener.Close()
			f.CloseClientConnections()
			<-ctx.Done()
			return nil
		}, "the node is not running any more"},
	} {
		t.Run(name, func(t *testing.T) {
			f, home := newFakeControl(t)
			a := &app{ui: newUI(io.Discard, io.Discard), home: home}
			experts, err := a.inUse(t.Context())
			if err != nil || len(experts) != 1 {
				t.Fatalf("in use: %+v, %v", experts, err)
			}
			err = a.whileInUse(t.Context(), experts, func(ctx context.Context) error { return tt.do(f, ctx) })
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, expected %q", err, tt.says)
			}
		})
	}
}

func TestAnInterruptedCommandSaysSo(t *testing.T) {
	_, home := newFakeControl(t)
	a := &app{ui: newUI(io.Discard, io.Discard), home: home}
	experts, err := a.inUse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	err = a.whileInUse(ctx, experts, func(ctx context.Context) error { interrupt(); <-ctx.Done(); return ctx.Err() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
