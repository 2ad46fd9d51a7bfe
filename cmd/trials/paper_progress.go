package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"chorus/model/train"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// paperProgress shows how much of the training that a table needs is done: as a bar on a terminal, elsewhere in a line every ten seconds.
type paperProgress struct {
	total, done, skipped float64       // FLOPs; skipped are those of runs that were done before
	spent                time.Duration // on training what was not skipped
	said                 time.Time
	prefix               string

	bars *mpb.Progress
	bar  *mpb.Bar
	note atomic.Pointer[string] // the bar's own goroutine reads it
}

const sayEvery = 10 * time.Second

func newPaperProgress(total float64) *paperProgress {
	p := &paperProgress{total: total, said: time.Now()}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.note.Store(new(string))
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(32))
		p.bar = p.bars.AddBar(1000, mpb.PrependDecorators(decor.Name("  training ")),
			mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace), decor.Name("  "), decor.Any(func(decor.Statistics) string { return *p.note.Load() })))
	}
	return p
}

func (p *paperProgress) skip(flops float64) {
	p.done, p.skipped = p.done+flops, p.skipped+flops
}

// say shows a note, at most every ten seconds where there is no bar.
func (p *paperProgress) say(done float64, format string, args ...any) {
	note := p.prefix + fmt.Sprintf(format, args...)
	if done > p.skipped {
		left := time.Duration(float64(p.spent) / (done - p.skipped) * max(0, p.total-done))
		note = fmt.Sprintf("%s; about %s of training left", note, left.Round(time.Second))
	}
	switch {
	case p.bar != nil:
		p.note.Store(&note)
		p.bar.SetCurrent(int64(1000 * min(1, done/p.total)))
	case time.Since(p.said) >= sayEvery:
		p.said = time.Now()
		fmt.Fprintf(os.Stderr, "  %3.0f %%  %s\n", 100*min(1, done/p.total), note)
	}
}

// training reports the steps of a run of so many FLOPs.
func (p *paperProgress) training(name string, flops float64) func(train.Progress) {
	var loss float64
	at, first, last := p.done, true, time.Now()
	return func(t train.Progress) {
		share := flops / float64(t.Steps)
		if first { // what an interrupted run had done
			p.skipped += float64(t.Step-1) * share
			loss, first = t.Loss, false
		}
		now := time.Now()
		p.spent, last = p.spent+now.Sub(last), now
		loss += (t.Loss - loss) / 20
		p.done = at + float64(t.Step)*share
		p.say(p.done, "%s: step %d of %d, loss %.3f, %.0f tokens/s", name, t.Step, t.Steps, loss, t.TokensPerSecond)
	}
}

// evaluating says what is evaluated.
func (p *paperProgress) evaluating(name string) { p.say(p.done, "evaluating %s", name) }

// end takes the bar away.
func (p *paperProgress) end() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}
