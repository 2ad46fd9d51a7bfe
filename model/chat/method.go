package chat

import (
	"strings"
	"time"
	"unicode/utf8"
)

// call calls a method of a text or a dict.
func (m *method) call(r *run, a args) value {
	r.spend(stepCost)
	if s, ok := m.of.(string); ok {
		f := stringMethods[m.name]
		r.spend(len(s))
		return f.call(r, s, r.bind(a, m.name, f.params))
	}
	f := dictMethods[m.name]
	return f.call(r, m.of.(*dict), r.bind(a, m.name, f.params))
}

type methodOf[T any] struct {
	params []string
	call   func(r *run, of T, a []value) value
}

func textMethod(params string, call func(r *run, s string, a []value) value) methodOf[string] {
	return methodOf[string]{strings.Fields(params), call}
}

// textArg is an argument that must be a text.
func (r *run) textArg(v value) string {
	s, ok := v.(string)
	if !ok {
		r.fail("expected a str as argument")
	}
	return s
}

var stringMethods = map[string]methodOf[string]{
	"capitalize": textMethod("", func(r *run, s string, _ []value) value { return r.capitalize(s) }),
	"count":      textMethod("sub", func(r *run, s string, a []value) value { return int64(strings.Count(s, r.textArg(a[0]))) }),
	"endswith": textMethod("suffix", func(r *run, s string, a []value) value {
		return r.anyOf(a[0], func(t string) bool { return strings.HasSuffix(s, t) })
	}),
	"find": textMethod("sub", func(r *run, s string, a []value) value {
		i := strings.Index(s, r.textArg(a[0]))
		if i < 0 {
			return int64(-1)
		}
		return int64(utf8.RuneCountInString(s[:i]))
	}),
	"join": textMethod("iterable", func(r *run, s string, a []value) value {
		for _, item := range r.iterate(given(a[0], nil)) {
			_ = r.textArg(item)
		}
		return join(r, a[0], []value{s, missing})
	}),
	"lower":   textMethod("", func(r *run, s string, _ []value) value { return strings.ToLower(r.ascii(s)) }),
	"lstrip":  textMethod("chars", func(r *run, s string, a []value) value { return r.strip(s, a[0], true, false) }),
	"replace": textMethod("old new count", replaceText),
	"rstrip":  textMethod("chars", func(r *run, s string, a []value) value { return r.strip(s, a[0], false, true) }),
	"split":   textMethod("sep maxsplit", split),
	"startswith": textMethod("prefix", func(r *run, s string, a []value) value {
		return r.anyOf(a[0], func(t string) bool { return strings.HasPrefix(s, t) })
	}),
	"strip": textMethod("chars", func(r *run, s string, a []value) value { return r.strip(s, a[0], true, true) }),
	"upper": textMethod("", func(r *run, s string, _ []value) value { return strings.ToUpper(r.ascii(s)) }),
}

// anyOf reports whether a text, or one of a tuple of them, is as asked.
func (r *run) anyOf(v value, holds func(string) bool) bool {
	t, ok := v.(*sequence)
	if !ok || t.kind != tupleSeq {
		return holds(r.textArg(v))
	}
	for _, item := range t.items {
		r.spend(stepCost)
		if holds(r.textArg(item)) {
			return true
		}
	}
	return false
}

func replaceText(r *run, s string, a []value) value {
	n, ok := given(a[2], int64(-1)).(int64)
	if !ok {
		r.fail("replacing so many is not supported")
	}
	return r.replace(s, r.textArg(a[0]), r.textArg(a[1]), int(n))
}

func split(r *run, s string, a []value) value {
	sep, n := given(a[0], nil), given(a[1], int64(-1))
	limit, ok := n.(int64)
	var parts []string
	switch {
	case !ok || sep == nil && limit >= 0:
		r.fail("splitting at most so often is not supported here")
	case sep == nil:
		parts = strings.FieldsFunc(s, isSpace)
	case r.textArg(sep) == "":
		r.fail("a text cannot be split at the empty text")
	case limit < 0 || limit >= int64(len(s)):
		parts = strings.Split(s, sep.(string))
	default:
		parts = strings.SplitN(s, sep.(string), int(limit)+1)
	}
	r.spend(2 * itemCost * len(parts))
	out := &sequence{items: make([]value, len(parts))}
	for i, part := range parts {
		out.items[i] = part
	}
	return out
}

var dictMethods = map[string]methodOf[*dict]{
	"get": {[]string{"key", "default"}, func(r *run, d *dict, a []value) value {
		switch key := a[0].(type) {
		case string:
			if v, ok := d.m[key]; ok {
				return v
			}
		case nil, bool, int64, float64, undefined:
		default:
			r.fail("a %s as the key of a dict is not supported", typeName(key))
		}
		return given(a[1], nil)
	}},
	"items": {nil, func(r *run, d *dict, _ []value) value { return &sequence{kind: viewSeq, items: r.pairs(d)} }},
	"keys":  {nil, func(r *run, d *dict, _ []value) value { return &sequence{kind: viewSeq, items: r.iterate(d)} }},
	"values": {nil, func(r *run, d *dict, _ []value) value {
		r.spend(itemCost * len(d.keys))
		out := &sequence{kind: viewSeq}
		for _, key := range d.keys {
			out.items = append(out.items, d.m[key])
		}
		return out
	}},
}

// maxRange is the length of the longest range that Jinja's sandbox makes.
const maxRange = 100000

// functions are those that every template has.
var functions = map[string]value{
	"range": &function{"range", func(r *run, a args) value {
		bounds := []int64{0, 0, 1}
		if n := len(a.list); n < 1 || n > 3 || len(a.named) > 0 {
			r.fail("range takes 1 to 3 arguments")
		}
		for i, v := range a.list {
			n, _, integer, ok := number(v)
			if !ok || !integer || n > 1<<32 || n < -1<<32 {
				r.fail("a range to this %s is not supported", typeName(v))
			}
			if bounds[i] = n; len(a.list) == 1 {
				bounds[0], bounds[1] = 0, n
			}
		}
		out := &sequence{kind: rangeSeq}
		from, to, by := bounds[0], bounds[1], bounds[2]
		if by == 0 {
			r.fail("a range cannot have the step 0")
		}
		for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
			if r.spend(itemCost); len(out.items) == maxRange {
				r.fail("a range of more than %d is not supported", maxRange)
			}
			out.items = append(out.items, i)
		}
		return out
	}},
	"namespace": &function{"namespace", func(r *run, a args) value {
		if len(a.list) > 0 {
			r.fail("a namespace of a value without a name is not supported")
		}
		r.spend(scopeCost)
		ns := &namespace{make(map[string]value)}
		for i, name := range a.names {
			ns.m[name] = a.named[i]
		}
		return ns
	}},
	"raise_exception": &function{"raise_exception", func(r *run, a args) value {
		message := r.bind(a, "raise_exception", []string{"message"})[0]
		if message == missing {
			r.fail("raise_exception takes a message")
		}
		panic(runError{&Refusal{r.str(message)}})
	}},
	"strftime_now": &function{"strftime_now", func(r *run, a args) value {
		return r.strftime(r.textArg(r.bind(a, "strftime_now", []string{"format"})[0]))
	}},
}

// layouts are the directives of strftime that are supported, as the time package writes them.
var layouts = map[byte]string{'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'm': "01", 'y': "06", 'Y': "2006",
	'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", '%': "%"}

func (r *run) strftime(format string) string {
	var b strings.Builder
	now := time.Now()
	if r.now != nil {
		now = r.now()
	}
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		if i++; i == len(format) || layouts[format[i]] == "" {
			r.fail("the date format %q is not supported", format)
		}
		b.WriteString(now.Format(layouts[format[i]]))
	}
	r.spend(b.Len())
	return b.String()
}
