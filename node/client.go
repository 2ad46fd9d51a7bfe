package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
)

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

// AwaitEnd implements [Control].
func (c *Client) AwaitEnd(ctx context.Context, offers []cid.Cid) (Status, error) {
	return call[Status](ctx, c, http.MethodPost, "await-end", awaitEndRequest{offers})
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
