package ledger

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

func TestUsageSumsUpOrNotAtAll(t *testing.T) {
	l := newLedger(t)
	x, y := blob("x"), blob("y")
	for _, u := range [][]Usage{
		{{Tokens: 10, Weight: 1000}, {Expert: x, Tokens: 1, Weight: 7}},
		{},
		{{Expert: x, Tokens: 2}, {Expert: x, Weight: 3}, {Expert: y, Tokens: math.MaxUint64}},
	} {
		if err := l.RecordUsage(u); err != nil {
			t.Fatal(err)
		}
	}
	want := []Usage{{Expert: x, Tokens: 3, Weight: 10}, {Expert: y, Tokens: math.MaxUint64}}
	slices.SortFunc(want, func(a, b Usage) int { return notice.CompareCID(a.Expert, b.Expert) })
	want = append([]Usage{{Tokens: 10, Weight: 1000}}, want...)
	got, err := l.Usage()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Usage = %v, %v, want %v", got, err, want)
	}
	for _, over := range []Usage{{Expert: y, Tokens: 1}, {Weight: math.MaxUint64}} {
		if err := l.RecordUsage([]Usage{{Expert: x, Tokens: 1}, over}); !errors.Is(err, ErrOverflow) {
			t.Errorf("RecordUsage = %v, want ErrOverflow", err)
		}
	}
	if got, err := l.Usage(); err != nil || !slices.Equal(got, want) {
		t.Errorf("after an overflow, Usage = %v, %v, want %v", got, err, want)
	}
}

func TestEventsKeepTheirOrderAndVerdictsTheLastWord(t *testing.T) {
	l := newLedger(t)
	var events []Event
	for i := range 300 {
		e := Event{Time: midnight.Add(-time.Duration(i) * time.Millisecond), Kind: EventDropped, Expert: blob("x"), Offer: blob("o"), Detail: fmt.Sprint(i)}
		if i%2 == 0 {
			e.Expert, e.Detail = cid.Undef, ""
		}
		events = append(events, e)
		if err := l.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.Events(); err != nil || !reflect.DeepEqual(got, events) {
		t.Errorf("Events = %v, %v", got, err)
	}
	a := Verdict{Offer: blob("a"), Time: midnight, Reason: "larger than the charter allows"}
	b := Verdict{Offer: blob("b"), Time: midnight, Admitted: true}
	for _, v := range []Verdict{a, b, {Offer: blob("a"), Time: midnight.Add(time.Hour), Admitted: true}} {
		if err := l.SetVerdict(v); err != nil {
			t.Fatal(err)
		}
	}
	a = Verdict{Offer: blob("a"), Time: midnight.Add(time.Hour), Admitted: true}
	if got, err := l.Verdicts(); err != nil || len(got) != 2 || !slices.Contains(got, a) || !slices.Contains(got, b) {
		t.Errorf("Verdicts = %v, %v", got, err)
	}
}

func TestObserveRefusesAClockThatWentBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	charter := aCharter(t, "pictures")
	l := open(t, path, charter)
	steps := []struct {
		at     time.Duration
		behind bool
	}{
		{0, false},
		{-2 * time.Minute, false},
		{-2*time.Minute - 1, true},
		{time.Hour, false},
		{time.Hour - 2*time.Minute, false}, // and does not lower the mark
		{time.Hour - 3*time.Minute, true},
		{0, true},
		{2 * time.Hour, false},
	}
	for i, s := range steps {
		err := l.Observe(midnight.Add(s.at))
		if errors.Is(err, ErrClockBehind) != s.behind || !s.behind && err != nil {
			t.Errorf("step %d: Observe = %v", i, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, path, charter)
	}
	err := l.Observe(midnight)
	if err == nil || !strings.Contains(err.Error(), "2026-03-01T00:00:00Z") || !strings.Contains(err.Error(), "2026-03-01T02:00:00Z") {
		t.Errorf("the error does not say both times: %v", err)
	}
}
