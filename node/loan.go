package node

import (
	"sync"

	"chorus/model"
)

// A loan is an admitted expert with a count of who computes with it at this moment. When it is called in nobody
// begins any more, and after the last one's end the expert's memory is given back: its packed copy and the mapping of
// its blob, which nobody may touch from then on.
type loan struct {
	mu     sync.Mutex
	expert *model.Expert // guarded by mu; nil once it is given back
	users  int           // guarded by mu
	over   bool          // guarded by mu
	broken func(error)   // is told if the memory cannot be given back
}

// take begins a computation with the expert, and reports whether it may.
func (l *loan) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.users++
	}
	return !l.over
}

// give ends a computation that take began.
func (l *loan) give() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	l.giveBack()
}

// call ends the loan.
func (l *loan) call() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.giveBack()
}

// giveBack frees the expert if its time has come. The caller holds mu.
func (l *loan) giveBack() {
	if !l.over || l.users > 0 || l.expert == nil {
		return
	}
	if err := l.expert.Close(); err != nil {
		l.broken(err)
	}
	l.expert = nil
}
