package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model/train"
	"chorus/node"
	"chorus/p2p"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// The rules of what commands print:
//
//   - Results go to stdout, everything else to stderr.
//   - An error is one line, "chorus: error: …", then lines "chorus: hint: …" with what to do.
//   - Long work shows a bar on a terminal, a plain line every ten seconds elsewhere, and with
//     --json an object of the same.
//   - With --json, stdout carries JSON and nothing else.

// Exit codes. They are stable.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3   // no other member, or no node, could be reached
	exitInterrupted = 130 // Ctrl-C: run the same command again to go on
)

// A hintedError is an error with what to do about it.
type hintedError struct {
	err   error
	hints []string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

func withHint(err error, hints ...string) error { return &hintedError{err, hints} }

// usageError is a command line that makes no sense.
type usageError struct{ error }

// explain returns the exit code of an error and what to do about it.
func explain(err error) (code int, hints []string) {
	var hinted *hintedError
	if errors.As(err, &hinted) {
		hints = hinted.hints
	}
	switch {
	case err == nil:
		return exitOK, nil
	case errors.Is(err, context.Canceled):
		return exitInterrupted, append(hints, "nothing is lost: run the same command again to go on")
	case errors.As(err, new(usageError)) && hinted != nil:
		return exitUsage, hints
	case errors.As(err, new(usageError)):
		return exitUsage, []string{"see `chorus --help`"}
	case errors.Is(err, node.ErrNoHome):
		return exitFailed, append(hints, "make one with `chorus init NAME`, or name another with --home")
	case errors.Is(err, node.ErrNoCharter):
		return exitFailed, append(hints, "join the one that invited you with `chorus join CODE`", "or take the charter that your steward sent into use with `chorus charter use FILE`", "or found a consortium with `chorus charter new NAME`")
	case errors.Is(err, node.ErrNotRunning):
		return exitUnreachable, append(hints, "start the node with `chorus up`")
	case errors.Is(err, node.ErrNotSpread):
		return exitUnreachable, append(hints, "leave the node running with `chorus up`: it passes the notice on as soon as a member is online")
	case errors.Is(err, node.ErrNotSteward):
		return exitFailed, append(hints, "ask one of them")
	case errors.Is(err, node.ErrNotReconciled):
		return exitUnreachable, append(hints, "name a member that is online under `peers` in config.toml, or try again when one is")
	case errors.Is(err, node.ErrUnreached):
		return exitUnreachable, append(hints, "name a node that is up with --peer: any member's will do", "a key that is not on the charter, or was revoked, is let in by none")
	case errors.Is(err, node.ErrOnOffer):
		return exitFailed, append(hints, "withdraw that offer with `chorus revoke`, then publish again: what comes is a new offer")
	case errors.Is(err, p2p.ErrNotMember):
		return exitFailed, append(hints, "`chorus doctor` says whether this member has left the charter, or its node key was replaced")
	case errors.Is(err, node.ErrRemoved):
		return exitFailed, append(hints, "ask a steward: whoever is to come back is admitted again with the card that `chorus init` prints, by `chorus charter propose --add`")
	case errors.Is(err, node.ErrReplaced):
		return exitFailed, append(hints, "name a new one with `chorus key rotate --recovery FILE`, or put the one that was named in its place")
	case errors.Is(err, errNobodyToAsk):
		if hinted == nil {
			hints = []string{"name a file with it in $" + passphraseFile}
		}
		return exitFailed, hints
	case errors.Is(err, ledger.ErrInUse):
		return exitFailed, append(hints, "the node of this data folder is starting or stopping: try again in a moment")
	case errors.Is(err, ledger.ErrClockBehind):
		return exitFailed, append(hints, "set this machine's clock right")
	case errors.Is(err, fs.ErrPermission):
		return exitFailed, append(hints, "check who owns the file")
	case errors.As(err, new(*net.OpError)):
		return exitUnreachable, hints
	}
	return exitFailed, hints
}

// A ui is where a command prints.
type ui struct {
	out, err io.Writer
	json     bool

	mu   sync.Mutex
	bars *mpb.Progress // nil unless err is a terminal
}

func newUI(out, err io.Writer) *ui { return &ui{out: out, err: err} }

// say prints words for people: to stdout, or with --json not at all.
func (u *ui) say(format string, args ...any) {
	if !u.json {
		fmt.Fprintf(u.out, format+"\n", args...)
	}
}

// result prints v as JSON if that was asked for, else calls show.
func (u *ui) result(v any, show func()) error {
	if !u.json {
		show()
		return nil
	}
	return node.WriteJSON(u.out, v)
}

// table prints rows in columns, two spaces apart.
func (u *ui) table(rows [][]string) {
	w := tabwriter.NewWriter(u.out, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, "  "+strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	w.Flush()
}

func (u *ui) fail(err error) int {
	code, hints := explain(err)
	if err != nil {
		// What somebody typed is no notice yet, though the same function refuses both.
		text := strings.TrimPrefix(strings.TrimSpace(err.Error()), notice.ErrMalformed.Error()+": ")
		if errors.Is(err, context.Canceled) {
			text = "interrupted"
		}
		fmt.Fprintf(u.err, "chorus: error: %s\n", text)
		for _, h := range hints {
			fmt.Fprintf(u.err, "chorus: hint: %s\n", h)
		}
	}
	return code
}

// plainEvery is how often long work is mentioned where there is no terminal. Only tests change it.
var plainEvery = 10 * time.Second

// A task is long work with a known total.
type task struct {
	ui    *ui
	name  string
	total int64
	bar   *mpb.Bar
	said  time.Time

	mu    sync.Mutex // guards what follows, which the bar's own goroutine reads
	note  string
	first int64 // what was done when set was first called
	began time.Time
	left  time.Duration // 0 until it can be told
}

func (u *ui) task(name string, total int64) *task {
	t := &task{ui: u, name: name, total: total, said: time.Now()}
	if f, ok := u.err.(*os.File); !ok || u.json || !term.IsTerminal(int(f.Fd())) {
		return t
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bars == nil {
		u.bars = mpb.New(mpb.WithOutput(u.err), mpb.WithWidth(32))
	}
	t.bar = u.bars.AddBar(total,
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("  %-18s", name))),
		mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace), decor.Name("  "),
			decor.Any(func(decor.Statistics) string {
				t.mu.Lock()
				defer t.mu.Unlock()
				if t.left == 0 {
					return t.note
				}
				return fmt.Sprintf("%s left, %s", t.left, t.note)
			})))
	return t
}

// set says how far the work is, with a short note.
func (t *task) set(done int64, format string, args ...any) {
	t.mu.Lock()
	t.note = fmt.Sprintf(format, args...)
	if t.began.IsZero() {
		t.first, t.began = done, time.Now()
	} else if done > t.first { // at the pace since then: what was done before, by an earlier run, took no time
		t.left = time.Duration(float64(time.Since(t.began)) / float64(done-t.first) * float64(t.total-done)).Round(time.Second)
	}
	note, left := t.note, t.left
	t.mu.Unlock()
	switch {
	case t.bar != nil:
		t.bar.SetCurrent(done)
	case time.Since(t.said) < plainEvery:
	case t.ui.json:
		t.said = time.Now()
		_ = json.NewEncoder(t.ui.err).Encode(map[string]any{"task": t.name, "done": done, "total": t.total, "left_seconds": left.Seconds(), "note": note})
	default:
		t.said = time.Now()
		fmt.Fprintf(t.ui.err, "  %s: %d %%, about %s left, %s\n", t.name, 100*done/max(1, t.total), left, note)
	}
}

// end takes the bar away, so that what is printed next stands alone.
func (t *task) end() {
	if t.bar == nil {
		return
	}
	t.bar.Abort(true)
	t.ui.mu.Lock()
	defer t.ui.mu.Unlock()
	t.ui.bars.Wait()
	t.ui.bars = nil
}

// transfer returns what reports bytes to a task that begins with the first, and what ends it.
func (u *ui) transfer(name string) (report func(done, total int64), end func()) {
	var t *task
	report = func(done, total int64) {
		if t == nil {
			t = u.task(name, total)
		}
		t.set(min(done, total), "%s of %s", megabytes(done), megabytes(total))
	}
	return report, func() {
		if t != nil {
			t.end()
		}
	}
}

// training reports a run's steps to a task.
func (t *task) training() func(train.Progress) {
	var loss, bits float64
	return func(p train.Progress) {
		if loss == 0 {
			loss, bits = p.Loss, p.BitsPerByte
		}
		loss += (p.Loss - loss) / 20
		bits += (p.BitsPerByte - bits) / 20
		note := fmt.Sprintf("loss %.2f, %.2f bits per byte, ", loss, bits)
		if p.Valid > 0 {
			note += fmt.Sprintf("%.2f on other text, ", p.Valid)
		}
		t.set(int64(p.Step), "%s%s tokens/s", note, thousands(int64(p.TokensPerSecond)))
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func megabytes(n int64) string { return fmt.Sprintf("%.2f MB", float64(n)/1e6) }

// short is the end of an identifier, enough for people to tell two apart.
func short(id fmt.Stringer) string {
	s := id.String()
	return "…" + s[max(0, len(s)-8):]
}
