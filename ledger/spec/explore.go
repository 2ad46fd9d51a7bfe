package spec

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
)

// A Result is what came of looking at the states of a scope.
type Result struct {
	States int
	Depth  int  // of the deepest state that was looked at, in actions
	Whole  bool // there is no state beyond

	// Broken is the invariant that does not hold, "" if all do, and Trace the shortest way there, in words.
	Broken string
	Trace  []string
}

// String tells the way to a violation.
func (r Result) String() string {
	if r.Broken == "" {
		return fmt.Sprintf("%d states, %d deep, all of them: %t", r.States, r.Depth, r.Whole)
	}
	return strings.Join(r.Trace, "\n") + "\n" + r.Broken
}

// Explore looks at the states of a scope breadth first, without some safeguards, down to a depth; 0: all there are.
// It ends at the first violation, or with ctx, and then the error is that of ctx.
//
// A state is known by 64 bits of hash. That two of n states share one, and the second is passed over, has a
// probability of n²/2⁶⁵: one in 30,000 for 30 million.
func Explore(ctx context.Context, scope Scope, without Safeguard, depth int) (Result, error) {
	e := explorer{
		world: world{scope, rules(everySafeguard &^ without)},
		seed:  maphash.MakeSeed(),
		seen:  make(map[uint64]struct{}),
	}
	begin := e.begin().canonical()
	e.note(&begin, 0)
	level := []State{begin}
	var r Result
	for first := 0; len(level) > 0; r.Depth++ {
		r.States = len(e.hashes)
		if depth > 0 && r.Depth == depth {
			return r, nil
		}
		var next []State
		for i := range level {
			if i%1024 == 0 && ctx.Err() != nil {
				return r, ctx.Err()
			}
			e.steps(&level[i], func(a action, s State) {
				if r.Broken != "" {
					return
				}
				r.Broken = e.wrong(&level[i], a, &s)
				c := s.canonical()
				if e.note(&c, uint32(first+i)) && r.Broken == "" {
					r.Broken = e.broken(&c)
					next = append(next, c)
				}
				if r.Broken != "" {
					r.Trace = e.trace(uint32(first+i), e.hash(&c), r.Broken)
				}
			})
			if r.Broken != "" {
				r.States, r.Depth = len(e.hashes), r.Depth+1
				return r, nil
			}
		}
		first += len(level)
		level = next
	}
	r.Depth--
	r.Whole = true
	return r, nil
}

// explorer remembers the states that it has seen.
type explorer struct {
	world
	seed    maphash.Seed
	seen    map[uint64]struct{} // hashes
	hashes  []uint64            // in the order they were found
	parents []uint32
}

func (e *explorer) hash(s *State) uint64 { return maphash.Comparable(e.seed, *s) }

// note remembers a state and reports whether it is new.
func (e *explorer) note(s *State, parent uint32) bool {
	h := e.hash(s)
	if _, ok := e.seen[h]; ok {
		return false
	}
	e.seen[h] = struct{}{}
	e.hashes, e.parents = append(e.hashes, h), append(e.parents, parent)
	return true
}

// trace tells the way to a state by way of parent, walked again from the beginning so that A stays A. Where a step is
// what is wrong, it is the last.
func (e *explorer) trace(parent uint32, last uint64, broken string) []string {
	way := []uint64{last}
	for at := parent; at != 0; at = e.parents[at] {
		way = append(way, e.hashes[at])
	}
	s := e.begin()
	words := []string{action{what: nothing}.words(&s)}
	for i := len(way) - 1; i >= 0; i-- {
		from, found := s, false
		e.steps(&from, func(a action, next State) {
			c := next.canonical()
			if !found && e.hash(&c) == way[i] && (i > 0 || e.wrong(&from, a, &next) == broken || e.broken(&c) == broken) {
				s, found = next, true
				words = append(words, a.words(&next))
			}
		})
	}
	return words
}
