package node

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/ipfs/go-cid"
)

// Membership is the part of [Control] that concerns who belongs to the consortium.
type Membership interface {
	// Charters returns what is known of the charter.
	Charters(ctx context.Context) (Charters, error)
	// Propose signs, as a steward, the next version of the charter and spreads it. It holds at once if no signature is lacking.
	// It may be repeated. The error wraps ErrNotSteward, ErrForked or ErrNotReconciled, among others.
	Propose(ctx context.Context, c Change) (Signed, error)
	// Sign adds this steward's signature to a proposal. The errors are those of Propose.
	Sign(ctx context.Context, proposal cid.Cid, with Caution) (Signed, error)
	// Leave withdraws all that this member has on offer, and has its steward propose to take it off the charter. A member
	// that is no steward is seen to leave by those who are.
	Leave(ctx context.Context, reason string, with Caution) (Departure, error)
	// Invite returns a code with which an organisation can ask this node, a steward's, to be admitted.
	Invite(ctx context.Context, r InviteRequest) (Invited, error)
	// Invitations returns those that this node has given out, in that order.
	Invitations(ctx context.Context) ([]Invitation, error)
	// CancelInvitation takes back the invitation that stands of an organisation, and declines its request if there is one.
	CancelInvitation(ctx context.Context, name string) error
}

type signRequest struct {
	Proposal cid.Cid `json:"proposal"`
	Caution
}

type leaveRequest struct {
	Reason string `json:"reason"`
	Caution
}

type cancelRequest struct {
	Name string `json:"name"`
}

func membershipHandlers(mux *http.ServeMux, c Membership, log *slog.Logger) {
	mux.Handle("GET /chorus/v1/charters", respond(log, func(r *http.Request, _ struct{}) (Charters, error) { return c.Charters(r.Context()) }))
	mux.Handle("POST /chorus/v1/propose", respond(log, func(r *http.Request, q Change) (Signed, error) { return c.Propose(r.Context(), q) }))
	mux.Handle("POST /chorus/v1/sign", respond(log, func(r *http.Request, q signRequest) (Signed, error) {
		return c.Sign(r.Context(), q.Proposal, q.Caution)
	}))
	mux.Handle("POST /chorus/v1/leave", respond(log, func(r *http.Request, q leaveRequest) (Departure, error) {
		return c.Leave(r.Context(), q.Reason, q.Caution)
	}))
	mux.Handle("POST /chorus/v1/invite", respond(log, func(r *http.Request, q InviteRequest) (Invited, error) { return c.Invite(r.Context(), q) }))
	mux.Handle("GET /chorus/v1/invitations", respond(log, func(r *http.Request, _ struct{}) ([]Invitation, error) { return c.Invitations(r.Context()) }))
	mux.Handle("POST /chorus/v1/cancel", respond(log, func(r *http.Request, q cancelRequest) (struct{}, error) {
		return struct{}{}, c.CancelInvitation(r.Context(), q.Name)
	}))
}

// Charters implements [Control].
func (c *Client) Charters(ctx context.Context) (Charters, error) {
	return call[Charters](ctx, c, http.MethodGet, "charters", nil)
}

// Propose implements [Control].
func (c *Client) Propose(ctx context.Context, change Change) (Signed, error) {
	return call[Signed](ctx, c, http.MethodPost, "propose", change)
}

// Sign implements [Control].
func (c *Client) Sign(ctx context.Context, proposal cid.Cid, with Caution) (Signed, error) {
	return call[Signed](ctx, c, http.MethodPost, "sign", signRequest{proposal, with})
}

// Leave implements [Control].
func (c *Client) Leave(ctx context.Context, reason string, with Caution) (Departure, error) {
	return call[Departure](ctx, c, http.MethodPost, "leave", leaveRequest{reason, with})
}

// Invite implements [Control].
func (c *Client) Invite(ctx context.Context, r InviteRequest) (Invited, error) {
	return call[Invited](ctx, c, http.MethodPost, "invite", r)
}

// Invitations implements [Control].
func (c *Client) Invitations(ctx context.Context) ([]Invitation, error) {
	return call[[]Invitation](ctx, c, http.MethodGet, "invitations", nil)
}

// CancelInvitation implements [Control].
func (c *Client) CancelInvitation(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "cancel", cancelRequest{name})
	return err
}
