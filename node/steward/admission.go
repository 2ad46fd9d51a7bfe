package steward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"chorus/ledger"
)

// A Refusal says why this node will not use an expert that its owner offers. It is final for the offer.
type Refusal struct{ Reason error }

func (r *Refusal) Error() string { return r.Reason.Error() }
func (r *Refusal) Unwrap() error { return r.Reason }

// Refuse returns a [*Refusal].
func Refuse(format string, args ...any) error { return &Refusal{fmt.Errorf(format, args...)} }

// admit decides about an expert: it fetches the blob if it is not here, checks that it is what the offer says and
// what the anchor needs, and tries it. The verdict and the reason are kept in the ledger. An error that is no
// [*Refusal] says that it could not be decided yet.
func (s *Steward) admit(ctx context.Context, st ledger.Standing) (Admitted, error) {
	e, err := s.examine(ctx, st)
	verdict := ledger.Verdict{Offer: st.Notice, Admitted: err == nil, Time: time.Now().UTC()}
	event := ledger.Event{Time: verdict.Time, Kind: ledger.EventAdmitted, Expert: st.Offer.Blob, Offer: st.Notice}
	a := Admitted{st, e}
	if err != nil {
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			return a, err
		}
		verdict.Reason, event.Kind, event.Detail = refusal.Error(), ledger.EventRefused, refusal.Error()
	}
	if failed := s.Ledger.SetVerdict(verdict); failed != nil {
		if err == nil {
			s.Hands.Drop(a)
		}
		return a, failed
	}
	if failed := s.Ledger.Record(event); failed != nil {
		s.Log.Error("recording an event", slog.String("kind", string(event.Kind)), slog.Any("error", failed))
	}
	return a, err
}

func (s *Steward) examine(ctx context.Context, st ledger.Standing) (Expert, error) {
	o, charter := st.Offer, s.Ledger.Charter()
	switch {
	case !o.Anchor.Equals(charter.Anchor):
		return nil, Refuse("the expert was trained against anchor %s, the charter's is %s", o.Anchor, charter.Anchor)
	case o.Size > charter.MaxBlobBytes:
		return nil, Refuse("the expert has %d bytes, the charter allows %d", o.Size, charter.MaxBlobBytes)
	}
	if !s.Hands.Held(o.Blob) {
		if err := s.Hands.Fetch(ctx, o.Blob, o.Size); err != nil {
			return nil, fmt.Errorf("fetching expert %s of %s: %w", o.Blob, st.Member, err)
		}
	}
	return s.Hands.Load(ctx, st)
}
