package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"chorus/ledger/notice"
	"chorus/node/invite"
	"chorus/p2p"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
)

// Errors about joining.
var (
	ErrNotJoining = errors.New("no request to be admitted is under way here")
	ErrImpostor   = errors.New("the node says something else of itself than before: somebody may stand between the two")
)

// retryVisit is how long a guest waits before it tries again to reach its host. Only tests change it.
var retryVisit = 3 * time.Second

// Joining says how to join.
type Joining struct {
	Code   *invite.Code // nil: go on with the request that is under way
	Config Config       // of a home that is made; Member and Peers come from the code

	Greeted     func(g invite.Greeting, fingerprint string) // each time that the host answers
	Heard       func(invite.Word)                           // how the request stands
	Unreachable func(error)                                 // the host does not answer, and will be asked again
}

// joining is joining.json.
type joining struct {
	Code  string        `json:"code"`
	Card  notice.Member `json:"card"`
	Nonce invite.Nonce  `json:"nonce"`
	Root  cid.Cid       `json:"root,omitzero"` // what the host has said of itself
	Host  invite.Nonce  `json:"host"`
}

// loadJoining reads joining.json; the error wraps ErrNotJoining if there is none.
func (h Home) loadJoining() (j joining, err error) {
	b, err := os.ReadFile(h.joining())
	if errors.Is(err, fs.ErrNotExist) {
		return j, fmt.Errorf("%s: %w", h, ErrNotJoining)
	}
	if err == nil {
		err = json.Unmarshal(b, &j, wire, json.RejectUnknownMembers(true))
	}
	if err != nil {
		return j, fmt.Errorf("%s: %w", h.joining(), err)
	}
	return j, nil
}

func (h Home) setJoining(j joining) error {
	b, err := json.Marshal(j, wire)
	if err != nil {
		return err
	}
	return writeFile(h.joining(), b)
}

// Join makes a home for the organisation that a code invites, asks to be admitted, and returns once it is and the home
// has the charter. It keeps what it has done, so that it can be repeated after an interruption at any moment. The error is an
// [*invite.Refusal] if the other side says no.
func (h Home) Join(ctx context.Context, o Joining) error {
	j, err := h.loadJoining()
	if o.Code != nil && (errors.Is(err, ErrNotJoining) || err == nil && j.Code != o.Code.String()) {
		if n, err := h.LoadCharter(); err == nil {
			return fmt.Errorf("%s belongs to %s already: use a new data folder", h, n.Body.(*notice.Charter).Name)
		}
		j, err = h.beginJoining(o)
	}
	if err != nil {
		return err
	}
	code, err := invite.Parse(j.Code)
	if err != nil {
		return fmt.Errorf("%s: %w", h.joining(), err)
	}
	if _, err := h.LoadCharter(); err == nil {
		return os.Remove(h.joining()) // it was interrupted after all was done
	}
	for {
		err := h.visit(ctx, code, &j, o)
		var refusal *invite.Refusal
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.As(err, &refusal), errors.Is(err, invite.ErrWrongNode), errors.Is(err, ErrImpostor):
			return err
		case !j.Root.Defined() && errors.Is(err, p2p.ErrUnexpected):
			return fmt.Errorf("the node there does not know this code: %w", p2p.ErrUnexpected)
		case !j.Root.Defined() && now().After(code.Expires):
			return invite.ErrExpired
		}
		o.Unreachable(err)
		select {
		case <-time.After(retryVisit):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h Home) beginJoining(o Joining) (j joining, err error) {
	if now().After(o.Code.Expires) {
		return j, fmt.Errorf("%w, on %s: ask for another", invite.ErrExpired, o.Code.Expires.Local().Format(time.DateTime))
	}
	o.Config.Member = o.Code.Name
	if err := h.Init(o.Config); err != nil {
		return j, err
	}
	j = joining{Code: o.Code.String(), Nonce: invite.NewNonce()}
	if j.Card, err = h.Member(o.Code.Name); err != nil {
		return j, err
	}
	return j, h.setJoining(j)
}

// visit has one conversation with the host.
func (h Home) visit(ctx context.Context, code *invite.Code, j *joining, o Joining) error {
	v, err := p2p.NewVisit(ctx, code.Key(), code.Addresses)
	if err != nil {
		return err
	}
	defer v.Close()
	defer context.AfterFunc(ctx, func() { v.Reset() })()
	return invite.Ask(v, invite.Guest{
		Code: code, Node: v.Node, Card: j.Card, Nonce: j.Nonce, Heard: o.Heard,
		Greeted: func(g invite.Greeting) error {
			if j.Root.Defined() && (j.Root != g.Root || j.Host != g.Nonce) {
				return ErrImpostor
			}
			j.Root, j.Host = g.Root, g.Nonce
			if err := h.setJoining(*j); err != nil {
				return err
			}
			o.Greeted(g, invite.Fingerprint(v.Node, g.Root, j.Card, j.Nonce, g.Nonce))
			return nil
		},
		Keep: func(chain []*notice.Notice) error {
			c, err := h.Config()
			if err != nil {
				return err
			}
			c.Peers = nil
			for _, a := range code.Addresses {
				c.Peers = append(c.Peers, v.Named(a))
			}
			if err := h.SetConfig(c); err != nil {
				return err
			}
			if err := h.SetCharter(chain...); err != nil {
				return err
			}
			return os.Remove(h.joining())
		},
	})
}
