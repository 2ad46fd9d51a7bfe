package chat

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The names of stringMethods and dictMethods.
var (
	stringMethodNames = wordSet("capitalize count endswith find join lower lstrip replace rstrip split startswith strip upper")
	dictMethodNames   = wordSet("get items keys values")
)

// Names that Python's own types have as attributes, besides the methods that are supported.
var foreign = wordSet(`append clear copy count extend index insert pop remove reverse sort start stop step isdisjoint mapping
	send throw close gi_code gi_frame gi_running gi_suspended gi_yieldfrom
	real imag numerator denominator conjugate bit_length bit_count to_bytes from_bytes as_integer_ratio is_integer hex fromhex
	casefold center encode expandtabs format format_map isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable
	isspace istitle isupper ljust maketrans partition removeprefix removesuffix rfind rindex rjust rpartition rsplit splitlines swapcase title translate zfill
	fromkeys popitem setdefault update`)

func wordSet(s string) map[string]bool {
	set := make(map[string]bool)
	for _, word := range strings.Fields(s) {
		set[word] = true
	}
	return set
}

// own gives the attribute of that name which v has by its type.
func (r *run) own(v value, name string) (value, bool) {
	known := false
	switch v := v.(type) {
	case nil:
		return nil, false
	case undefined:
		r.fail("%q is undefined, so it has no %q", v.name, name)
	case string:
		known = stringMethodNames[name]
	case *dict:
		known = dictMethodNames[name]
	case *namespace:
		if r.filtering > 0 {
			r.fail("a namespace in what a loop or filter selects by is not supported")
		}
		found, ok := v.m[name]
		return found, ok
	case *loop:
		return r.loopMember(v, name), true
	case bool, int64, float64, *sequence:
	default:
		r.fail("a %s has no member that is supported", typeName(v))
	}
	if known {
		return &method{v, name}, true
	}
	if foreign[name] {
		r.fail("%q of a %s is not supported", name, typeName(v))
	}
	return nil, false
}

// attribute is v.name: what Python's type has, then what the dictionary holds.
func (r *run) attribute(v value, name string) value {
	if found, ok := r.own(v, name); ok {
		return found
	}
	if d, ok := v.(*dict); ok {
		if found, ok := d.m[name]; ok {
			return found
		}
	}
	return undefined{name}
}

// item is v[key]: what the value holds, then what Python's type has.
func (r *run) item(v, key value) value {
	if i, _, integer, ok := number(key); ok && integer {
		n := -1
		s, isString := v.(string)
		seq, isSeq := v.(*sequence)
		if isSeq && seq.kind < viewSeq {
			n = len(seq.items)
		} else if isString {
			r.spend(len(s))
			n = utf8.RuneCountInString(s)
		}
		if i < 0 {
			i += int64(n)
		}
		switch {
		case n >= 0 && (i < 0 || i >= int64(n)):
			return undefined{"an item past the end"}
		case n >= 0 && isString:
			return string([]rune(s)[i])
		case n >= 0:
			return seq.items[i]
		}
	}
	switch v.(type) {
	case undefined, markup, *function, *method, *loop:
		r.fail("a %s has no items", typeName(v))
	}
	name, ok := key.(string)
	if !ok {
		return undefined{r.itemName(key)}
	}
	if d, ok := v.(*dict); ok {
		if found, ok := d.m[name]; ok {
			return found
		}
	}
	if found, ok := r.own(v, name); ok {
		return found
	}
	return undefined{name}
}

func (r *run) itemName(key value) string {
	if i, ok := key.(int64); ok {
		return strconv.FormatInt(i, 10)
	}
	return "an item by a " + typeName(key)
}

// slice is v[from:to:step], each bound nil where it is not given.
func (r *run) slice(v, from, to, step value) value {
	bound := func(v value, otherwise int64) int64 {
		if v == nil {
			return otherwise
		}
		i, _, integer, ok := number(v)
		if !ok || !integer {
			r.fail("a slice to a %s is not supported", typeName(v))
		}
		return i
	}
	by := bound(step, 1)
	if by == 0 || by == math.MinInt64 {
		r.fail("a slice cannot have the step %d", by)
	}
	s, isString := v.(string)
	seq, isSeq := v.(*sequence)
	if !isString && (!isSeq || seq.kind >= viewSeq) {
		r.fail("a %s has no slices", typeName(v))
	}
	runes := []rune(s)
	r.spend(itemCost * len(runes))
	n := int64(len(runes))
	if isSeq {
		n = int64(len(seq.items))
	}
	low, high := int64(0), n // what a bound is clamped to
	if by < 0 {
		low, high = -1, n-1
	}
	clamp := func(i int64) int64 {
		if i < 0 {
			i += n
		}
		return max(low, min(i, high))
	}
	begin, end := low, high
	if by < 0 {
		begin, end = high, low
	}
	if from != nil {
		begin = clamp(bound(from, 0))
	}
	if to != nil {
		end = clamp(bound(to, 0))
	}
	var text strings.Builder
	var items []value
	for i := begin; by > 0 && i < end || by < 0 && i > end; i += by {
		r.spend(itemCost)
		if isString {
			text.WriteRune(runes[i])
		} else {
			items = append(items, seq.items[i])
		}
		if by > n || by < -n {
			break
		}
	}
	if isString {
		return text.String()
	}
	return &sequence{kind: seq.kind, items: items}
}
