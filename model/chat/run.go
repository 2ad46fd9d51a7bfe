package chat

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// What a rendering may cost: a template can be anybody's, and must neither hang nor fill memory. A
// byte of text costs 1; a rendering of a long chat by a long template takes a few million.
const (
	maxWork   = 1 << 26
	stepCost  = 16 // a statement or a call
	itemCost  = 16 // an item of a list
	scopeCost = 256
	maxDepth  = 100 // of lists in lists
	maxCalls  = 50  // of macros in macros
)

// A run is one rendering.
type run struct {
	out       *strings.Builder
	filters   map[string]filter
	now       func() time.Time
	line      int
	work      int // of maxWork, what is left
	depth     int // of macros
	filtering int // how many selections are under way that Jinja would make later
}

// A runError is what a run panics with; [Template.Render] returns it.
type runError struct{ err error }

func (r *run) fail(format string, args ...any) {
	panic(runError{fmt.Errorf("line %d: "+format, append([]any{r.line}, args...)...)})
}

func (r *run) spend(cost int) {
	if r.work -= cost; cost < 0 || r.work < 0 {
		r.fail("rendering takes too much work")
	}
}

func (r *run) nested(depth int) {
	if r.spend(stepCost); depth > maxDepth {
		r.fail("values nested more than %d deep", maxDepth)
	}
}

func (r *run) write(s string) {
	r.spend(len(s))
	r.out.WriteString(s)
}

// capture returns what a body writes.
func (r *run) capture(body statement, s *scope) string {
	outer := r.out
	r.out = new(strings.Builder)
	body(r, s)
	text := r.out.String()
	r.out = outer
	return text
}

// A scope holds the variables of a frame.
type scope struct {
	m     map[string]value
	outer *scope
}

func (s *scope) inner() *scope { return &scope{make(map[string]value, 2), s} }

func (s *scope) find(name string) value {
	for at := s; at != nil; at = at.outer {
		if v, ok := at.m[name]; ok {
			return v
		}
	}
	return undefined{name}
}

// missing stands for an argument that is not given.
var missing value = &struct{ byte }{}

// bind gives each parameter its argument, or missing.
func (r *run) bind(a args, name string, params []string) []value {
	r.spend(stepCost + itemCost*len(params))
	if len(a.list) > len(params) {
		r.fail("%s takes %d arguments here and got %d", name, len(params), len(a.list))
	}
	out := slices.Repeat([]value{missing}, len(params))
	copy(out, a.list)
	for i, given := range a.names {
		at := slices.Index(params, given)
		if at < 0 || out[at] != missing {
			r.fail("%s takes no argument %q here, or has it already", name, given)
		}
		out[at] = a.named[i]
	}
	return out
}

// arithmetic is Python's, on integers of 64 bits and floats; + and * on texts too, + on lists.
func (r *run) arithmetic(op string, a, b value) value {
	if op == "~" {
		s, t := r.str(a), r.str(b)
		r.spend(len(s) + len(t))
		return s + t
	}
	x, xf, xi, xn := number(a)
	y, yf, yi, yn := number(b)
	switch {
	case xn && yn && xi && yi && op != "/":
		return r.integers(op, x, y)
	case xn && yn:
		return r.floats(op, xf, yf)
	}
	s, isText := a.(string)
	switch {
	case isText && op == "+":
		if t, ok := b.(string); ok {
			r.spend(len(s) + len(t))
			return s + t
		}
	case isText && op == "*" && yn && yi:
		if n := max(y, 0); n > maxWork || len(s)*int(n) > maxWork {
			r.fail("rendering takes too much work")
		} else {
			r.spend(len(s) * int(n))
			return strings.Repeat(s, int(n))
		}
	case op == "+":
		l, ok := a.(*sequence)
		m, also := b.(*sequence)
		if ok && also && l.kind <= tupleSeq && l.kind == m.kind {
			r.spend(itemCost * (len(l.items) + len(m.items)))
			return &sequence{kind: l.kind, items: slices.Concat(l.items, m.items)}
		}
	}
	r.fail("%s %s %s is not supported", typeName(a), op, typeName(b))
	return nil
}

func (r *run) integers(op string, x, y int64) value {
	switch op {
	case "+":
		if sum := x + y; (sum > x) == (y > 0) {
			return sum
		}
	case "-":
		if d := x - y; (d < x) == (y > 0) {
			return d
		}
	case "*":
		hi, lo := bits.Mul64(uint64(max(x, -x)), uint64(max(y, -y)))
		if x != math.MinInt64 && y != math.MinInt64 && hi == 0 && lo <= math.MaxInt64 {
			return x * y
		}
	default:
		if y == 0 {
			r.fail("division by zero")
		}
		if x == math.MinInt64 {
			break
		}
		q, m := x/y, x%y
		if m != 0 && (m < 0) != (y < 0) { // Python rounds down
			q, m = q-1, m+y
		}
		if op == "//" {
			return q
		}
		return m
	}
	r.fail("the result of %d %s %d is too large", x, op, y)
	return nil
}

func (r *run) floats(op string, x, y float64) value {
	var f float64
	switch op {
	case "+":
		f = x + y
	case "-":
		f = x - y
	case "*":
		f = x * y
	case "/":
		if y == 0 {
			r.fail("division by zero")
		}
		if max(math.Abs(x), math.Abs(y)) >= 1<<53 { // where Python divides integers more exactly than floats
			r.fail("dividing numbers as large as these is not supported")
		}
		f = x / y
	default:
		r.fail("float %s float is not supported", op)
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		r.fail("the result of %v %s %v is no number", x, op, y)
	}
	return f
}

// loopMember is a member of the variable loop.
func (r *run) loopMember(l *loop, name string) value {
	n := len(l.items)
	switch name {
	case "index":
		return int64(l.at + 1)
	case "index0":
		return int64(l.at)
	case "revindex":
		return int64(n - l.at)
	case "revindex0":
		return int64(n - l.at - 1)
	case "first":
		return l.at == 0
	case "last":
		return l.at == n-1
	case "length":
		return int64(n)
	case "previtem":
		if l.at > 0 {
			return l.items[l.at-1]
		}
		return undefined{"loop.previtem"}
	case "nextitem":
		if l.at < n-1 {
			return l.items[l.at+1]
		}
		return undefined{"loop.nextitem"}
	}
	r.fail("loop.%s is not supported", name)
	return nil
}
