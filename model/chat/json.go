package chat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// jsonStyle is how transformers' filter tojson, which is Python's json.dumps, was asked to write.
type jsonStyle struct {
	ascii, sorted bool
	indent        string // nothing: on one line, unless lines
	lines         bool
	item, key     string // what stands after an item, and after a key
}

func toJSON(r *run, v value, a []value) value {
	style := jsonStyle{ascii: truth(given(a[0], false)), sorted: truth(given(a[3], false)), item: ", ", key: ": "}
	switch by := given(a[1], nil).(type) {
	case nil:
	case int64:
		if by > 64 {
			r.fail("indenting JSON by %d is not supported", by)
		}
		style.lines, style.indent, style.item = true, strings.Repeat(" ", int(max(by, 0))), ","
	case string:
		style.lines, style.indent, style.item = true, by, ","
	default:
		r.fail("indenting JSON by a %s is not supported", typeName(by))
	}
	if separators := given(a[2], nil); separators != nil {
		parts := r.iterate(separators)
		if len(parts) != 2 {
			r.fail("JSON has two separators")
		}
		style.item, style.key = r.textArg(parts[0]), r.textArg(parts[1])
	}
	var b strings.Builder
	r.json(&b, v, style, 0)
	return b.String()
}

func (r *run) json(b *strings.Builder, v value, style jsonStyle, depth int) {
	r.nested(depth)
	line := func(depth int) {
		if style.lines {
			r.spend(1 + depth*len(style.indent))
			b.WriteString("\n" + strings.Repeat(style.indent, depth))
		}
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(floatText(v))
	case string:
		r.spend(6 * len(v))
		quote(b, v, style.ascii)
	case *sequence:
		if v.kind > tupleSeq {
			r.fail("a %s cannot be written as JSON", typeName(v))
		}
		b.WriteByte('[')
		for i, item := range v.items {
			if i > 0 {
				b.WriteString(style.item)
			}
			line(depth + 1)
			r.json(b, item, style, depth+1)
		}
		if len(v.items) > 0 {
			line(depth)
		}
		b.WriteByte(']')
	case *dict:
		keys := v.keys
		if style.sorted {
			keys = slices.Sorted(slices.Values(keys))
		}
		b.WriteByte('{')
		for i, key := range keys {
			if i > 0 {
				b.WriteString(style.item)
			}
			line(depth + 1)
			r.spend(6*len(key) + len(style.item) + len(style.key))
			quote(b, key, style.ascii)
			b.WriteString(style.key)
			r.json(b, v.m[key], style, depth+1)
		}
		if len(keys) > 0 {
			line(depth)
		}
		b.WriteByte('}')
	default:
		r.fail("a %s cannot be written as JSON", typeName(v))
	}
}

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\f': `\f`, '\b': `\b`}

// quote writes a text as Python's json does: in ASCII if so asked, and else with nothing escaped that need not be.
func quote(b *strings.Builder, s string, ascii bool) {
	b.WriteByte('"')
	for _, c := range s {
		switch escaped, ok := jsonEscapes[c]; {
		case ok:
			b.WriteString(escaped)
		case c > 0xffff && ascii:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
		case c < ' ' || ascii && c > '~':
			fmt.Fprintf(b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}
