package chat

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A value is what Python would have: nil, bool, int64, float64, string, or one of the types below.
type value any

// undefined is what a name or a member that is not there gives. It prints as nothing.
type undefined struct{ name string }

// markup is what the filter safe gives. It may be printed and joined with ~, and nothing else.
type markup string

// A seqKind tells Python's kinds of sequences apart.
type seqKind int

const (
	listSeq seqKind = iota
	tupleSeq
	rangeSeq
	viewSeq // of a dictionary: has a length and no index
	iterSeq // a generator: has neither, is true, and can be read once
)

type sequence struct {
	kind  seqKind
	items []value
	spent bool // an iterSeq that was read
	begun bool // an iterSeq of which some was read: what is left is not kept
}

// dict keeps the order in which keys came.
type dict struct {
	keys []string
	m    map[string]value
}

func newDict() *dict { return &dict{m: make(map[string]value)} }

func (d *dict) set(key string, v value) {
	if _, ok := d.m[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.m[key] = v
}

// namespace is the one thing that a template can change.
type namespace struct{ m map[string]value }

// method is a method of a value, before it is called.
type method struct {
	of   value
	name string
}

// function is a macro, or a function that every template has.
type function struct {
	name string
	call func(r *run, a args) value
}

// loop is the variable of that name.
type loop struct {
	items []value
	at    int
}

// args are the arguments of a call.
type args struct {
	list  []value
	names []string // of the named ones
	named []value
}

// typeName is what Python calls the type of v.
func typeName(v value) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case undefined:
		return "undefined"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case *sequence:
		return [...]string{"list", "tuple", "range", "dict view", "generator"}[v.kind]
	case *dict:
		return "dict"
	case *namespace:
		return "namespace"
	case *loop:
		return "loop"
	case markup:
		return "safe string"
	}
	return "function"
}

func truth(v value) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case markup:
		return v != ""
	case *sequence:
		return v.kind == iterSeq || len(v.items) > 0
	case *dict:
		return len(v.keys) > 0
	}
	return true
}

// number reports whether v is one; integer, unless it is a float.
func number(v value) (i int64, f float64, integer, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			i = 1
		}
		return i, float64(i), true, true
	case int64:
		return v, float64(v), true, true
	case float64:
		return 0, v, false, true
	}
	return 0, 0, false, false
}

// str is Python's str of v.
func (r *run) str(v value) string {
	switch v := v.(type) {
	case string:
		return v
	case markup:
		return string(v)
	case undefined:
		return ""
	}
	var b strings.Builder
	r.repr(&b, v, 0)
	return b.String()
}

// repr writes Python's repr of v.
func (r *run) repr(b *strings.Builder, v value, depth int) {
	r.nested(depth)
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(floatText(v))
	case string:
		r.spend(4 * len(v))
		quote := byte('\'')
		if strings.Contains(v, "'") && !strings.Contains(v, `"`) {
			quote = '"'
		}
		b.WriteByte(quote)
		for i := range len(v) {
			switch c := v[i]; {
			case c >= utf8.RuneSelf:
				r.fail("printing text that is not ASCII as part of a list or dict is not supported")
			case c == quote || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c == '\n':
				b.WriteString(`\n`)
			case c == '\r':
				b.WriteString(`\r`)
			case c == '\t':
				b.WriteString(`\t`)
			case c < ' ' || c == 0x7f:
				b.WriteString(`\x` + string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]))
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte(quote)
	case *sequence:
		if v.kind > tupleSeq {
			r.fail("printing a %s is not supported", typeName(v))
		}
		ends := "[]"
		if v.kind == tupleSeq {
			ends = "()"
		}
		b.WriteByte(ends[0])
		for i, item := range v.items {
			if i > 0 {
				b.WriteString(", ")
			}
			r.repr(b, item, depth+1)
		}
		if v.kind == tupleSeq && len(v.items) == 1 {
			b.WriteByte(',')
		}
		b.WriteByte(ends[1])
	case *dict:
		b.WriteByte('{')
		for i, key := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			r.repr(b, key, depth+1)
			b.WriteString(": ")
			r.repr(b, v.m[key], depth+1)
		}
		b.WriteByte('}')
	default:
		r.fail("printing a %s is not supported", typeName(v))
	}
}

// floatText is Python's repr of a float.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'f', -1, 64)), "+")
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exponent, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if f != 0 && (exponent < -4 || exponent >= 16) {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// iterate gives the items that Python's iter(v) would.
func (r *run) iterate(v value) []value {
	switch v := v.(type) {
	case undefined:
		return nil
	case *sequence:
		if v.begun {
			r.fail("a generator of which some was read cannot be read on")
		}
		if v.kind != iterSeq {
			return v.items
		}
		if v.spent {
			return nil
		}
		v.spent = true
		return v.items
	case *dict:
		r.spend(itemCost * len(v.keys))
		items := make([]value, len(v.keys))
		for i, key := range v.keys {
			items[i] = key
		}
		return items
	case string:
		r.spend(itemCost * len(v))
		var items []value
		for _, c := range v {
			items = append(items, string(c))
		}
		return items
	}
	r.fail("a %s is not iterable", typeName(v))
	return nil
}

func (r *run) length(v value) int {
	switch v := v.(type) {
	case undefined:
		return 0
	case string:
		r.spend(len(v))
		return utf8.RuneCountInString(v)
	case *dict:
		return len(v.keys)
	case *sequence:
		if v.kind != iterSeq {
			return len(v.items)
		}
	}
	r.fail("a %s has no length", typeName(v))
	return 0
}

// equal is Python's ==.
func (r *run) equal(a, b value, depth int) bool {
	r.nested(depth)
	if x, xf, xi, ok := number(a); ok {
		y, yf, yi, ok := number(b)
		if ok && xi != yi && (max(math.Abs(xf), math.Abs(yf)) >= 1<<53) {
			r.fail("comparing an int and a float as large as these is not supported")
		}
		return ok && (xi && yi && x == y || !(xi && yi) && xf == yf)
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case undefined:
		_, ok := b.(undefined)
		return ok
	case string:
		if _, ok := b.(markup); ok {
			r.fail("comparing a safe string is not supported")
		}
		y, ok := b.(string)
		r.spend(len(x))
		return ok && x == y
	case *dict:
		y, ok := b.(*dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for _, key := range x.keys {
			if other, ok := y.m[key]; !ok || !r.equal(x.m[key], other, depth+1) {
				return false
			}
		}
		return true
	case *sequence:
		y, ok := b.(*sequence)
		if !ok {
			return false
		}
		if x.kind > tupleSeq || y.kind > tupleSeq {
			break
		}
		if x.kind != y.kind || len(x.items) != len(y.items) {
			return false
		}
		for i := range x.items {
			if !r.equal(x.items[i], y.items[i], depth+1) {
				return false
			}
		}
		return true
	}
	r.fail("comparing a %s with a %s is not supported", typeName(a), typeName(b))
	return false
}

// order is Python's < and its kin, for numbers and for strings.
func (r *run) order(a, b value) int {
	x, xf, xi, xn := number(a)
	y, yf, yi, yn := number(b)
	s, xs := a.(string)
	t, ys := b.(string)
	switch {
	case xn && yn && xi && yi:
		return cmp.Compare(x, y)
	case xn && yn && !math.IsNaN(xf) && !math.IsNaN(yf) && max(math.Abs(xf), math.Abs(yf)) < 1<<53:
		return cmp.Compare(xf, yf)
	case xs && ys:
		r.spend(min(len(s), len(t)))
		return strings.Compare(s, t) // of UTF-8 is that of code points
	}
	r.fail("a %s and a %s have no order that is supported", typeName(a), typeName(b))
	return 0
}

// contains is Python's item in v.
func (r *run) contains(v, item value) bool {
	switch v := v.(type) {
	case undefined:
		return false
	case string:
		s, ok := item.(string)
		if !ok {
			r.fail("a %s cannot be in a str", typeName(item))
		}
		r.spend(len(v) + len(s))
		return strings.Contains(v, s)
	case *dict:
		switch item := item.(type) {
		case string:
			_, ok := v.m[item]
			return ok
		case nil, bool, int64, float64, undefined:
			return false
		}
	case *sequence:
		if _, ok := item.(string); v.kind == iterSeq || v.kind == viewSeq && !ok {
			break
		}
		for _, other := range v.items {
			r.spend(itemCost)
			if r.equal(other, item, 0) {
				return true
			}
		}
		return false
	}
	r.fail("asking whether a %s is in a %s is not supported", typeName(item), typeName(v))
	return false
}
