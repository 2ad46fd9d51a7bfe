package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger"

	"github.com/ipfs/go-cid"
)

// dial starts a member's node with its server and returns a client of it.
func (c *consortium) dial(name string, peers ...string) (*Node, *Client) {
	c.Helper()
	n := c.start(name, Options{Serve: true}, peers...)
	k, err := Dial(c.Context(), c.homes[name])
	c.must(err)
	return n, k
}

func TestClientSaysWhatTheNodeSays(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("beta")
	alpha, k := c.dial("alpha", c.nodes["beta"].Host().Addrs()...)
	same := func(when string) {
		t.Helper()
		direct, err := alpha.Status(t.Context())
		c.must(err)
		remote, err := k.Status(t.Context())
		c.must(err)
		for { // until nothing happens meanwhile, such as a member's coming
			after, err := alpha.Status(t.Context())
			c.must(err)
			if reflect.DeepEqual(direct, after) {
				break
			}
			direct = after
			remote, err = k.Status(t.Context())
			c.must(err)
		}
		if !reflect.DeepEqual(asJSON(t, direct), asJSON(t, remote)) || direct.API == "" || direct.API != k.URL {
			t.Errorf("%s: status %+v over HTTP, %+v directly", when, remote, direct)
		}
		account, err := alpha.Account(t.Context())
		c.must(err)
		over, err := k.Account(t.Context())
		c.must(err)
		if !reflect.DeepEqual(asJSON(t, account), asJSON(t, over)) {
			t.Errorf("%s: account %+v over HTTP, %+v directly", when, over, account)
		}
	}
	same("at first")

	offer, err := k.Publish(t.Context(), publication(c.expert(2, nil)))
	c.must(err)
	c.await("admission", uses(offer))
	if again, err := alpha.Publish(t.Context(), publication(c.expert(2, nil))); err != nil || again != offer {
		t.Errorf("published directly: %s, %v, expected %s", again, err, offer)
	}
	c.answer(alpha, 3)
	same("with an expert")

	revocation, err := k.Revoke(t.Context(), offer, "a reason")
	c.must(err)
	if again, err := alpha.Revoke(t.Context(), offer, "a reason"); err != nil || again != revocation {
		t.Errorf("revoked directly: %s, %v, expected %s", again, err, revocation)
	}
	c.await("the end", gone(offer, c.standing(alpha, offer).Offer.Blob))
	if c.status(alpha, offer).Reason != "a reason" {
		t.Errorf("status %+v", c.status(alpha, offer))
	}
	c.poll("both nodes' word", func() bool {
		said, err := alpha.Compliance(t.Context(), revocation)
		c.must(err)
		return !slices.ContainsFunc(said.Members, func(a Acknowledgement) bool { return a.Dropped.IsZero() })
	})
	same("after the revocation")

	offer, err = k.Publish(t.Context(), publication(c.expert(3, nil)))
	c.must(err)
	if _, err = k.Revoke(t.Context(), cid.Undef, ""); err != nil {
		t.Fatal(err)
	}
	if e := c.status(alpha, offer); e.State != ledger.Revoked {
		t.Errorf("status %+v after all was revoked", e)
	}
}

// asJSON is v as any program would see it.
func asJSON(t *testing.T, v any) (out any) {
	t.Helper()
	var b bytes.Buffer
	if err := WriteJSON(&b, v); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestJSONForProgramsHasPlainCIDsAndNoNull(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	alpha, _ := c.dial("alpha")
	look := func() {
		t.Helper()
		s, err := alpha.Status(t.Context())
		c.must(err)
		account, err := alpha.Account(t.Context())
		c.must(err)
		for _, v := range []any{s, account} {
			var b strings.Builder
			c.must(WriteJSON(&b, v))
			if strings.Contains(b.String(), `"/":`) || strings.Contains(b.String(), "null") {
				t.Errorf("%s", b.String())
			}
		}
	}
	look()
	offer, _ := c.publish("alpha", 2)
	c.answer(alpha, 1)
	c.revoke("alpha", offer)
	c.await("the drop", func(n *Node) bool { return !n.Mixture().stands(offer) })
	look()
}

func TestErrorsKeepTheirMeaningOverHTTP(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, _ := c.publish("alpha", 2)
	c.down("alpha", "beta")
	_, k := c.dial("alpha") // nobody is there
	unspread := publication(c.expert(3, nil))
	for _, within := range []time.Duration{0, time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		if within == 0 {
			<-ctx.Done()
			if _, err := k.Publish(ctx, unspread); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Publish with no time left: %v", err)
			}
			continue
		}
		if _, err := k.Publish(ctx, unspread); !errors.Is(err, ErrNotReconciled) {
			t.Errorf("Publish: %v, expected %v", err, ErrNotReconciled)
		}
	}
	late := publication(c.expert(3, nil))
	late.WithinSeconds = 0.001
	if _, err := k.Publish(t.Context(), late); !errors.Is(err, ErrNotReconciled) {
		t.Errorf("Publish with a limit: %v, expected %v", err, ErrNotReconciled)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	id, err := k.Revoke(ctx, offer, "")
	if !errors.Is(err, ErrNotSpread) {
		t.Errorf("Revoke: %v, expected %v", err, ErrNotSpread)
	}
	if st := c.standing(c.nodes["alpha"], offer); st.State != ledger.Revoked || st.RevokedBy != id {
		t.Errorf("%s by %s, and the client was told %s", st.State, st.RevokedBy, id)
	}
	if _, err := k.Revoke(t.Context(), c.charter.CID, ""); err == nil || errors.Is(err, ErrNotSpread) || !strings.Contains(err.Error(), "is not an offer of alpha") || strings.HasSuffix(err.Error(), "\n") {
		t.Errorf("Revoke of what is no offer: %q", err)
	}
}

func TestACommandThatIsInterruptedEndsAtOnce(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	_, k := c.dial("alpha")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := k.Publish(ctx, publication("x")) // waits for another member
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, expected %v", err, context.Canceled)
	}
}

func TestDialFindsOnlyARunningNode(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	h := c.homes["alpha"]
	dial := func(when string) {
		t.Helper()
		if k, err := Dial(t.Context(), h); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v, %v, expected %v", when, k, err, ErrNotRunning)
		}
	}
	dial("before the first start")
	_, k := c.dial("alpha")
	file, err := os.ReadFile(h.control())
	c.must(err)
	c.down("alpha")
	if _, err := os.Stat(h.control()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close the file is still there: %v", err)
	}
	dial("after Close")
	if _, err := k.Status(t.Context()); err == nil {
		t.Error("a client of a node that ended has its status")
	}

	c.must(writeFile(h.control(), file)) // as a kill leaves it
	dial("after a kill")

	strangers := map[string]http.HandlerFunc{
		"a server of another kind": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"a server of other JSON":   func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") },
		"a server that refuses":    func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) },
	}
	for name, stranger := range strangers {
		server := httptest.NewServer(stranger)
		b, err := json.Marshal(contact{server.URL, "x"})
		c.must(err)
		c.must(writeFile(h.control(), b))
		dial(name + " has its port")
		server.Close()
	}

	// A start replaces what was left.
	_, k = c.dial("alpha")
	if _, err := k.Status(t.Context()); err != nil {
		t.Error(err)
	}
	c.down("alpha")

	c.must(writeFile(h.control(), []byte("{")))
	if _, err := Dial(t.Context(), h); err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "control.json") {
		t.Errorf("a file that is no JSON: %v", err)
	}
	c.must(os.Remove(h.control()))

	c.dial("alpha")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ended, h); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotRunning) {
		t.Errorf("after an interruption: %v", err)
	}
}

func TestControlSurfaceIsTheOwnersAlone(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	_, k := c.dial("alpha")
	for _, token := range []string{"", "Bearer ", "Bearer x", k.Token, "Bearer " + k.Token + "x", "bearer " + k.Token} {
		for _, path := range []string{"GET status", "GET account", "POST publish", "POST revoke", "GET other"} {
			method, what, _ := strings.Cut(path, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, k.URL+"/chorus/v1/"+what, strings.NewReader("{}"))
			c.must(err)
			if token != "" {
				req.Header.Set("Authorization", token)
			}
			resp, err := http.DefaultClient.Do(req)
			c.must(err)
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s with the token %q: %s", path, token, resp.Status)
			}
		}
	}
	for what, body := range map[string]string{
		"not JSON":          "{",
		"an unknown field":  `{"path":"x","dominion":"x"}`,
		"a megabyte":        `{"path":"` + strings.Repeat("x", maxControlRequest) + `"}`,
		"of another method": "",
	} {
		method := http.MethodPost
		if body == "" {
			method = http.MethodPut
		}
		req, err := http.NewRequestWithContext(t.Context(), method, k.URL+"/chorus/v1/publish", strings.NewReader(body))
		c.must(err)
		req.Header.Set("Authorization", "Bearer "+k.Token)
		resp, err := http.DefaultClient.Do(req)
		c.must(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("a body that is %s: %s", what, resp.Status)
		}
	}
}

func TestNodeServesLocalPrograms(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	n, k := c.dial("alpha")
	resp, err := http.Post(k.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"chorus","prompt":"the cat","max_tokens":3,"temperature":0}`))
	c.must(err)
	defer resp.Body.Close()
	var a struct {
		Choices []struct{ Text string }
		Usage   struct {
			Completion int `json:"completion_tokens"`
		}
	}
	c.must(json.NewDecoder(resp.Body).Decode(&a))
	if want := textOf(n, continuation(n, n.Mixture().computes, encode(n, "the cat"), 3)); resp.StatusCode != http.StatusOK || len(a.Choices) != 1 || oneMark(a.Choices[0].Text) != want || a.Usage.Completion != 3 {
		t.Errorf("%s: %+v, expected %q", resp.Status, a, want)
	}
}

func TestAPortInUseSaysWhatToChange(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := found(t, terms{}, "alpha")
	config, err := c.homes["alpha"].Config()
	c.must(err)
	config.API = l.Addr().String()
	c.must(c.homes["alpha"].SetConfig(config))
	_, err = New(t.Context(), c.homes["alpha"], Options{Serve: true, Log: discard()})
	if err == nil || !strings.Contains(err.Error(), "config.toml") {
		t.Errorf("%v, expected an error that names the file", err)
	}
	c.up("alpha") // nothing that the failed start opened is still open
}

func TestCloseEndsStreamsUnderWayAndPutsWhatTheyUsedOnRecord(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	var logged safeBuffer
	n := c.start("alpha", Options{Serve: true, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	k, err := Dial(t.Context(), c.homes["alpha"])
	c.must(err)
	var streams []*http.Response
	for range 4 {
		resp, err := http.Post(k.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"chorus","prompt":"the cat","max_tokens":250,"temperature":0,"stream":true}`))
		c.must(err)
		defer resp.Body.Close()
		_, err = io.ReadFull(resp.Body, make([]byte, 100))
		c.must(err)
		streams = append(streams, resp)
	}
	c.down("alpha")
	for _, resp := range streams {
		_, _ = io.Copy(io.Discard, resp.Body) // ends, as it may have been answered whole or cut
	}
	l, err := c.homes["alpha"].OpenLedger()
	c.must(err)
	defer l.Close()
	usage, err := l.Usage()
	c.must(err)
	least := uint64(4 * len(encode(n, "the cat")))
	if len(usage) != 1 || usage[0].Tokens < least || usage[0].Weight != usage[0].Tokens*perToken {
		t.Errorf("the ledger has %+v, expected at least %d tokens", usage, least)
	}
	if strings.Contains(logged.String(), "database not open") {
		t.Errorf("something used the ledger after its end:\n%s", logged.String())
	}
}

func TestStatusWithoutARunningNodeIsTheLedgers(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	offer, blob := c.publish("alpha", 2)
	c.answer(c.nodes["alpha"], 2)
	account, err := c.nodes["alpha"].Account(t.Context())
	c.must(err)
	c.down("alpha")
	l, err := c.homes["alpha"].OpenLedger()
	c.must(err)
	defer l.Close()
	s := OfflineStatus(c.homes["alpha"], "alpha", l)
	if len(s.Experts) != 1 || s.Experts[0].Offer != offer || s.Experts[0].InUse || !s.Experts[0].Held || s.Why != "the node is not running" {
		t.Errorf("status %+v", s)
	}
	if s.Experts[0].Path != filepath.Join(string(c.homes["alpha"]), "blobs", blob.String()) {
		t.Errorf("the blob is in %s", s.Experts[0].Path)
	}
	after, err := ReadAccount(l)
	c.must(err)
	if !reflect.DeepEqual(asJSON(t, after), asJSON(t, account)) {
		t.Errorf("account %+v, expected %+v", after, account)
	}
	if len(account.Usage) != 2 || account.Usage[1].Member != "alpha" || account.Usage[1].Domain != "cats" || account.Usage[0].Expert != "anchor" {
		t.Errorf("usage %+v", account.Usage)
	}
}
