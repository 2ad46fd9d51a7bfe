package chat

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A filter is value|name(arguments).
type filter struct {
	params []string // nil if on binds the arguments itself
	apply  func(r *run, v value, a []value) value
	free   func(r *run, v value, a args) value // instead of apply
}

func (f filter) on(r *run, name string, v value, a args) value {
	r.spend(stepCost)
	if f.free != nil {
		return f.free(r, v, a)
	}
	return f.apply(r, v, r.bind(a, name, f.params))
}

func takes(params string, apply func(r *run, v value, a []value) value) filter {
	return filter{params: append([]string{}, strings.Fields(params)...), apply: apply}
}

// filters are those that are supported. A run holds them, since map applies others.
var filters = map[string]filter{
	"capitalize": takes("", func(r *run, v value, _ []value) value { return r.capitalize(r.text(v)) }),
	"count":      takes("", func(r *run, v value, _ []value) value { return int64(r.length(v)) }),
	"d":          takes("default_value boolean", byDefault),
	"default":    takes("default_value boolean", byDefault),
	"dictsort":   takes("case_sensitive by reverse", dictSort),
	"first":      takes("", first),
	"float":      takes("", toFloat),
	"indent":     takes("width first blank", indent),
	"int":        takes("default", toInt),
	"items":      takes("", items),
	"join":       takes("d attribute", join),
	"last":       takes("", last),
	"length":     takes("", func(r *run, v value, _ []value) value { return int64(r.length(v)) }),
	"list":       takes("", func(r *run, v value, _ []value) value { return &sequence{items: r.iterate(v)} }),
	"lower":      takes("", func(r *run, v value, _ []value) value { return strings.ToLower(r.ascii(r.text(v))) }),
	"map":        {free: mapped},
	"reject":     {free: func(r *run, v value, a args) value { return r.selected(v, a, false, false) }},
	"rejectattr": {free: func(r *run, v value, a args) value { return r.selected(v, a, true, false) }},
	"replace":    takes("old new", replace),
	"reverse":    takes("", reverse),
	"safe":       takes("", func(r *run, v value, _ []value) value { return markup(r.text(v)) }),
	"select":     {free: func(r *run, v value, a args) value { return r.selected(v, a, false, true) }},
	"selectattr": {free: func(r *run, v value, a args) value { return r.selected(v, a, true, true) }},
	"sort":       takes("reverse case_sensitive attribute", sorted),
	"string":     takes("", func(r *run, v value, _ []value) value { return r.text(v) }),
	"tojson":     takes("ensure_ascii indent separators sort_keys", toJSON),
	"trim":       takes("chars", func(r *run, v value, a []value) value { return r.strip(r.text(v), a[0], true, true) }),
	"upper":      takes("", func(r *run, v value, _ []value) value { return strings.ToUpper(r.ascii(r.text(v))) }),
}

// text is v as a filter on texts sees it.
func (r *run) text(v value) string {
	if _, ok := v.(markup); ok {
		r.fail("a filter on a safe string is not supported")
	}
	s := r.str(v)
	r.spend(len(s))
	return s
}

// ascii passes on text whose letters every library changes the same way.
func (r *run) ascii(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return c >= utf8.RuneSelf }) {
		r.fail("changing the case of text that is not ASCII is not supported")
	}
	r.spend(len(s))
	return s
}

func (r *run) capitalize(s string) string {
	if s = strings.ToLower(r.ascii(s)); s != "" {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

// strip removes whitespace, or the characters of a text, from the ends.
func (r *run) strip(s string, chars value, left, right bool) string {
	strips := isSpace
	if chars != missing && chars != nil {
		set, ok := chars.(string)
		if !ok {
			r.fail("stripping a %s is not supported", typeName(chars))
		}
		r.spend(len(s))
		strips = func(c rune) bool { r.spend(len(set)); return strings.ContainsRune(set, c) }
	}
	if left {
		s = strings.TrimLeftFunc(s, strips)
	}
	if right {
		s = strings.TrimRightFunc(s, strips)
	}
	return s
}

func given(v, otherwise value) value {
	if v == missing {
		return otherwise
	}
	return v
}

func byDefault(_ *run, v value, a []value) value {
	_, none := v.(undefined)
	if none || truth(given(a[1], false)) && !truth(v) {
		return given(a[0], "")
	}
	return v
}

// sortKey orders as Python does once texts are in lower case.
func (r *run) sortKey(v value, exact bool) value {
	if s, ok := v.(string); ok && !exact {
		return strings.ToLower(r.ascii(s))
	}
	return v
}

func (r *run) sortBy(items []value, key func(value) value, reverse bool) []value {
	type keyed struct{ key, item value }
	r.spend(itemCost * len(items) * 8)
	all := make([]keyed, len(items))
	for i, item := range items {
		all[i] = keyed{key(item), item}
	}
	slices.SortStableFunc(all, func(a, b keyed) int {
		r.spend(stepCost)
		if reverse {
			return r.order(b.key, a.key)
		}
		return r.order(a.key, b.key)
	})
	out := make([]value, len(all))
	for i := range all {
		out[i] = all[i].item
	}
	return out
}

func sorted(r *run, v value, a []value) value {
	exact := truth(given(a[1], false))
	attribute, _ := given(a[2], nil).(string)
	if a[2] != missing && a[2] != nil && (attribute == "" || strings.Contains(attribute, ",")) {
		r.fail("sorting by this attribute is not supported")
	}
	return &sequence{items: r.sortBy(r.iterate(v), func(item value) value {
		if attribute != "" {
			item = r.path(item, attribute)
		}
		return r.sortKey(item, exact)
	}, truth(given(a[0], false)))}
}

func dictSort(r *run, v value, a []value) value {
	at := slices.Index([]value{"key", "value"}, given(a[1], "key"))
	if at < 0 {
		r.fail("a dict is sorted by key or value")
	}
	exact := truth(given(a[0], false))
	key := func(pair value) value { return r.sortKey(pair.(*sequence).items[at], exact) }
	return &sequence{items: r.sortBy(r.pairs(v), key, truth(given(a[2], false)))}
}

// pairs are the keys and values of a dict, as tuples.
func (r *run) pairs(v value) []value {
	d, ok := v.(*dict)
	if !ok {
		r.fail("a %s has no keys", typeName(v))
	}
	r.spend(4 * itemCost * len(d.keys))
	out := make([]value, len(d.keys))
	for i, key := range d.keys {
		out[i] = &sequence{kind: tupleSeq, items: []value{key, d.m[key]}}
	}
	return out
}

func items(r *run, v value, _ []value) value {
	if _, ok := v.(undefined); ok {
		return &sequence{kind: iterSeq}
	}
	return &sequence{kind: iterSeq, items: r.pairs(v)}
}

func first(r *run, v value, _ []value) value {
	all := r.iterate(v)
	if s, ok := v.(*sequence); ok && s.kind == iterSeq {
		s.begun = true
	}
	if len(all) == 0 {
		return undefined{"the first of nothing"}
	}
	return all[0]
}

func last(r *run, v value, _ []value) value {
	s, isSeq := v.(*sequence)
	_, isUndefined := v.(undefined)
	if isUndefined || isSeq && s.kind == iterSeq {
		r.fail("a %s has no last item", typeName(v))
	}
	all := r.iterate(v)
	if len(all) == 0 {
		return undefined{"the last of nothing"}
	}
	return all[len(all)-1]
}

func reverse(r *run, v value, _ []value) value {
	all := slices.Clone(r.iterate(v))
	r.spend(itemCost * len(all))
	slices.Reverse(all)
	if s, ok := v.(string); ok {
		r.spend(len(s))
		var b strings.Builder
		for _, c := range all {
			b.WriteString(c.(string))
		}
		return b.String()
	}
	switch s, ok := v.(*sequence); {
	case ok && s.kind == iterSeq:
		return &sequence{items: all} // Jinja makes a list of what has no length
	case !ok:
		if _, ok := v.(*dict); !ok {
			r.fail("reversing a %s is not supported", typeName(v))
		}
	}
	return &sequence{kind: iterSeq, items: all}
}

func join(r *run, v value, a []value) value {
	between := r.text(given(a[0], ""))
	attribute := given(a[1], nil)
	var b strings.Builder
	for i, item := range r.iterate(v) {
		if attribute != nil {
			item = r.path(item, attribute)
		}
		if i > 0 {
			r.spend(len(between))
			b.WriteString(between)
		}
		s := r.str(item)
		r.spend(len(s) + stepCost)
		b.WriteString(s)
	}
	return b.String()
}

func replace(r *run, v value, a []value) value {
	if a[0] == missing || a[1] == missing {
		r.fail("replace takes 2 arguments")
	}
	return r.replace(r.text(v), r.text(a[0]), r.text(a[1]), -1)
}

func (r *run) replace(s, old, new string, n int) string {
	found := strings.Count(s, old)
	if n >= 0 {
		found = min(found, n)
	}
	r.spend(len(s))
	r.spend(found * len(new))
	return strings.Replace(s, old, new, n)
}

// indent puts spaces before lines: not before the first unless first, nor before empty ones unless blank.
func indent(r *run, v value, a []value) value {
	s, ok := v.(string)
	if !ok {
		r.fail("indenting a %s is not supported", typeName(v))
	}
	if strings.ContainsFunc(s, func(c rune) bool {
		return c >= 0x0b && c <= 0x1f || c == 0x85 || c == 0x2028 || c == 0x2029
	}) {
		r.fail("indenting text with other line ends than newlines is not supported")
	}
	by, ok := given(a[0], int64(4)).(string)
	if width, isInt := given(a[0], int64(4)).(int64); isInt && width <= 256 {
		by, ok = strings.Repeat(" ", int(max(width, 0))), true
	}
	if !ok {
		r.fail("indenting by this is not supported")
	}
	var b strings.Builder
	for i, line := range strings.Split(s, "\n") {
		r.spend(len(by) + len(line))
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == 0 && truth(given(a[1], false)) || i > 0 && (line != "" || truth(given(a[2], false))) {
			b.WriteString(by)
		}
		b.WriteString(line)
	}
	return b.String()
}

func toInt(r *run, v value, a []value) value {
	switch v := v.(type) {
	case nil:
		return given(a[0], int64(0))
	case bool, int64:
		i, _, _, _ := number(v)
		return i
	case float64:
		if v > -1<<53 && v < 1<<53 {
			return int64(v)
		}
	case string:
		if digits := strings.TrimLeft(v, "+-"); digits != "" && len(v)-len(digits) <= 1 && strings.Trim(digits, "0123456789") == "" {
			if i, err := strconv.ParseInt(v, 10, 64); err == nil {
				return i
			}
		}
	}
	r.fail("making an int of this %s is not supported", typeName(v))
	return nil
}

func toFloat(r *run, v value, _ []value) value {
	_, f, _, ok := number(v)
	if !ok {
		r.fail("making a float of a %s is not supported", typeName(v))
	}
	return f
}

// path is an attribute as filters name it: with dots between its parts.
func (r *run) path(v, attribute value) value {
	s, ok := attribute.(string)
	if !ok {
		r.fail("the attribute %s is not supported", typeName(attribute))
	}
	for part := range strings.SplitSeq(s, ".") {
		r.spend(stepCost)
		if part == "" || part[0] == '_' {
			r.fail("the attribute %q is not supported", s)
		}
		key := value(part)
		if strings.Trim(part, "0123456789") == "" {
			i, err := strconv.ParseInt(part, 10, 64)
			if err != nil {
				r.fail("the attribute %q is not supported", s)
			}
			key = i
		}
		v = r.item(v, key)
	}
	return v
}

func mapped(r *run, v value, a args) value {
	var each func(item value) value
	switch {
	case len(a.list) == 0:
		named := r.bind(a, "map", []string{"attribute", "default"})
		each = func(item value) value {
			got := r.path(item, named[0])
			if _, ok := got.(undefined); ok && named[1] != missing && named[1] != nil {
				r.fail("a default in map is not supported")
			}
			return got
		}
	default:
		name, _ := a.list[0].(string)
		f, ok := r.filters[name]
		if !ok {
			r.fail("map by %q is not supported", name)
		}
		rest := args{a.list[1:], a.names, a.named}
		each = func(item value) value { return f.on(r, name, item, rest) }
	}
	r.filtering++
	defer func() { r.filtering-- }()
	out := &sequence{kind: iterSeq}
	if !truth(v) {
		return out
	}
	for _, item := range r.iterate(v) {
		r.spend(itemCost)
		out.items = append(out.items, each(item))
	}
	return out
}

// selected keeps the items for which a test, or without one their truth, is as wanted.
func (r *run) selected(v value, a args, byAttribute, want bool) value {
	list := a.list
	if len(a.named) > 0 || byAttribute && len(list) == 0 {
		r.fail("selecting with these arguments is not supported")
	}
	of := func(item value) value { return item }
	if byAttribute {
		attribute := list[0]
		list = list[1:]
		of = func(item value) value { return r.path(item, attribute) }
	}
	holds := func(item value) bool { return truth(item) }
	if len(list) > 0 {
		name, _ := list[0].(string)
		t, ok := tests[name]
		if takes := map[bool]int{true: 2, false: 1}[t.takes]; !ok || len(list) != takes {
			r.fail("selecting by the test %q with %d arguments is not supported", name, len(list)-1)
		}
		other := list[len(list)-1]
		holds = func(item value) bool { return t.holds(r, item, other) }
	}
	r.filtering++
	defer func() { r.filtering-- }()
	out := &sequence{kind: iterSeq}
	if !truth(v) {
		return out
	}
	for _, item := range r.iterate(v) {
		if r.spend(itemCost); holds(of(item)) == want {
			out.items = append(out.items, item)
		}
	}
	return out
}

// A test is value is name, with one argument if it takes one.
type test struct {
	takes bool
	holds func(r *run, v, a value) bool
}

func is[T any](_ *run, v, _ value) bool { _, ok := v.(T); return ok }

func compares(op string) test { return test{true, comparisons[op]} }

var tests = map[string]test{
	"defined":   {false, func(_ *run, v, _ value) bool { _, ok := v.(undefined); return !ok }},
	"undefined": {false, is[undefined]},
	"none":      {false, func(_ *run, v, _ value) bool { return v == nil }},
	"boolean":   {false, is[bool]},
	"true":      {false, func(_ *run, v, _ value) bool { return v == true }},
	"false":     {false, func(_ *run, v, _ value) bool { return v == false }},
	"integer":   {false, is[int64]},
	"float":     {false, is[float64]},
	"number":    {false, func(_ *run, v, _ value) bool { _, _, _, ok := number(v); return ok }},
	"string":    {false, func(_ *run, v, _ value) bool { return slices.Contains([]string{"str", "safe string"}, typeName(v)) }},
	"mapping":   {false, is[*dict]},
	"iterable": {false, func(_ *run, v, _ value) bool {
		return isSequence(v) || is[*sequence](nil, v, nil) || is[*loop](nil, v, nil)
	}},
	"sequence": {false, func(_ *run, v, _ value) bool { return isSequence(v) }},
	"odd":      {false, func(r *run, v, _ value) bool { return r.equal(r.arithmetic("%", v, int64(2)), int64(1), 0) }},
	"even":     {false, func(r *run, v, _ value) bool { return r.equal(r.arithmetic("%", v, int64(2)), int64(0), 0) }},
	"equalto":  compares("=="), "eq": compares("=="), "ne": compares("!="), "in": compares("in"),
	"lt": compares("<"), "lessthan": compares("<"), "le": compares("<="), "gt": compares(">"), "greaterthan": compares(">"), "ge": compares(">="),
}

// isSequence is what Jinja takes for one: what has a length and items.
func isSequence(v value) bool {
	switch v := v.(type) {
	case undefined, string, markup, *dict:
		return true
	case *sequence:
		return v.kind < viewSeq
	}
	return false
}
