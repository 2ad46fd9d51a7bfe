package chat

import (
	"slices"
	"strconv"
)

// expression reads one in full, with "a if b else c".
func (p *parser) expression() expression {
	defer p.deeper()()
	then := p.plain()
	if !p.take("if") {
		return then
	}
	test := p.plain()
	otherwise := constant(undefined{"an if without else"})
	if p.take("else") {
		otherwise = p.expression()
	}
	return func(r *run, s *scope) value {
		if truth(test(r, s)) {
			return then(r, s)
		}
		return otherwise(r, s)
	}
}

// A step is what is done to a value that an expression has come to. Chains are lists of steps and not
// expressions in expressions, so that only nesting takes stack.
type step func(r *run, s *scope, v value) value

func chain(e expression, steps []step) expression {
	if len(steps) == 0 {
		return e
	}
	return func(r *run, s *scope) value {
		v := e(r, s)
		for _, do := range steps {
			r.spend(stepCost)
			v = do(r, s, v)
		}
		return v
	}
}

// plain reads an expression without "if".
func (p *parser) plain() expression {
	defer p.deeper()()
	return p.either(p.conjunction, "or", true)
}

func (p *parser) conjunction() expression { return p.either(p.negation, "and", false) }

// either reads operands with a word between them: the value is that of the first whose truth settles it, or else the last.
func (p *parser) either(operand func() expression, word string, settles bool) expression {
	all := []expression{operand()}
	for p.take(word) {
		all = append(all, operand())
	}
	if len(all) == 1 {
		return all[0]
	}
	return func(r *run, s *scope) (v value) {
		for _, e := range all {
			if v = e(r, s); truth(v) == settles {
				break
			}
		}
		return v
	}
}

func (p *parser) negation() expression {
	if p.take("not") {
		defer p.deeper()()
		e := p.negation()
		return func(r *run, s *scope) value { return !truth(e(r, s)) }
	}
	return p.comparison()
}

var comparisons = map[string]func(r *run, a, b value) bool{
	"==": func(r *run, a, b value) bool { return r.equal(a, b, 0) },
	"!=": func(r *run, a, b value) bool { return !r.equal(a, b, 0) },
	"<":  func(r *run, a, b value) bool { return r.order(a, b) < 0 },
	"<=": func(r *run, a, b value) bool { return r.order(a, b) <= 0 },
	">":  func(r *run, a, b value) bool { return r.order(a, b) > 0 },
	">=": func(r *run, a, b value) bool { return r.order(a, b) >= 0 },
	"in": func(r *run, a, b value) bool { return r.contains(b, a) },
}

// comparison reads a chain of them: a < b < c means a < b and b < c.
func (p *parser) comparison() expression {
	first := p.sum()
	type link struct {
		holds func(r *run, a, b value) bool
		not   bool
		with  expression
	}
	var links []link
	for {
		t := p.peek()
		not := p.is("not") && p.tokens[p.at+1].kind == nameToken && p.tokens[p.at+1].text == "in"
		if not {
			p.next()
			t = p.peek()
		}
		holds := comparisons[t.text]
		if holds == nil || t.kind != operatorToken && t.kind != nameToken {
			break
		}
		p.next()
		links = append(links, link{holds, not, p.sum()})
	}
	if links == nil {
		return first
	}
	return func(r *run, s *scope) value {
		a := first(r, s)
		for _, l := range links {
			b := l.with(r, s)
			if l.holds(r, a, b) == l.not {
				return false
			}
			a = b
		}
		return true
	}
}

// binary reads operands of one precedence, which are joined from the left.
func (p *parser) binary(operand func() expression, operators ...string) expression {
	e := operand()
	var steps []step
	for {
		op := ""
		for _, o := range operators {
			if p.peek().kind == operatorToken && p.take(o) {
				op = o
				break
			}
		}
		if op == "" {
			return chain(e, steps)
		}
		with := operand()
		steps = append(steps, func(r *run, s *scope, v value) value { return r.arithmetic(op, v, with(r, s)) })
	}
}

// In Jinja ~ binds tighter than +, and weaker than *.
func (p *parser) sum() expression     { return p.binary(p.join, "+", "-") }
func (p *parser) join() expression    { return p.binary(p.product, "~") }
func (p *parser) product() expression { return p.binary(p.unary, "*", "//", "/", "%") }

// unary reads a sign, which takes the value without its filters.
func (p *parser) unary() expression { return p.filtered(p.signed()) }

func (p *parser) signed() expression {
	defer p.deeper()()
	for _, sign := range []string{"-", "+"} {
		if p.take(sign) {
			e := p.signed()
			return p.postfix(func(r *run, s *scope) value {
				v := e(r, s)
				_, f, integer, ok := number(v)
				switch {
				case !ok:
					r.fail("a %s has no sign", typeName(v))
				case !integer && sign == "-":
					return -f
				case !integer:
					return f
				}
				return r.arithmetic(sign, int64(0), v)
			})
		}
	}
	return p.postfix(p.primary())
}

func constant(v value) expression { return func(*run, *scope) value { return v } }

var constants = map[string]value{"true": true, "True": true, "false": false, "False": false, "none": nil, "None": nil}

func (p *parser) primary() expression {
	defer p.deeper()()
	t := p.peek()
	switch {
	case t.kind == stringToken:
		text := ""
		for p.peek().kind == stringToken {
			text += p.next().text
		}
		return constant(text)
	case t.kind == intToken:
		p.next()
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			fail(t.line, "%s is too large", t.text)
		}
		return constant(n)
	case t.kind == floatToken:
		p.next()
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			fail(t.line, "%s is too large", t.text)
		}
		return constant(f)
	case t.kind == nameToken:
		if v, ok := constants[t.text]; ok {
			p.next()
			return constant(v)
		}
		if reserved[t.text] && t.text != "loop" && !unsupported[t.text] {
			p.unexpected("a value")
		}
		name := p.read(p.next())
		return func(_ *run, s *scope) value { return s.find(name) }
	case p.take("("):
		items, comma := p.items(")")
		if len(items) == 1 && !comma {
			return items[0]
		}
		return p.sequence(tupleSeq, items)
	case p.take("["):
		items, _ := p.items("]")
		return p.sequence(listSeq, items)
	case p.take("{"):
		return p.dict()
	}
	p.unexpected("a value")
	return nil
}

// items reads expressions with commas between them, and reports whether there was one.
func (p *parser) items(end string) (items []expression, comma bool) {
	for !p.take(end) {
		if len(items) > 0 {
			p.expect(",")
			if comma = true; p.take(end) {
				break
			}
		}
		items = append(items, p.expression())
	}
	return items, comma
}

func (p *parser) sequence(kind seqKind, items []expression) expression {
	return func(r *run, s *scope) value {
		r.spend(itemCost * len(items))
		out := &sequence{kind: kind}
		for _, e := range items {
			out.items = append(out.items, e(r, s))
		}
		return out
	}
}

func (p *parser) dict() expression {
	var keys, values []expression
	for !p.take("}") {
		if len(keys) > 0 {
			p.expect(",")
			if p.take("}") {
				break
			}
		}
		keys = append(keys, p.expression())
		p.expect(":")
		values = append(values, p.expression())
	}
	return func(r *run, s *scope) value {
		r.spend(scopeCost + itemCost*len(keys))
		d := newDict()
		for i := range keys {
			k := keys[i](r, s)
			key, ok := k.(string)
			if !ok {
				r.fail("a %s as the key of a dict is not supported", typeName(k))
			}
			d.set(key, values[i](r, s))
		}
		return d
	}
}

// postfix reads members, items, slices and calls.
func (p *parser) postfix(e expression) expression {
	var steps []step
	for {
		switch {
		case p.take("."):
			if p.peek().kind == intToken {
				index := p.primary()
				steps = append(steps, func(r *run, s *scope, v value) value { return r.item(v, index(r, s)) })
				continue
			}
			t := p.expectKind(nameToken, "the name of a member")
			if t.text[0] == '_' {
				fail(t.line, "the member %q is not supported", t.text)
			}
			steps = append(steps, func(r *run, _ *scope, v value) value { return r.attribute(v, t.text) })
		case p.take("["):
			steps = append(steps, p.subscript())
		case p.take("("):
			steps = append(steps, p.call())
		default:
			return chain(e, steps)
		}
	}
}

func (p *parser) subscript() step {
	parts := [3]expression{constant(nil), constant(nil), constant(nil)}
	colons := 0
	for !p.is("]") {
		if p.take(":") {
			if colons++; colons > 2 {
				p.unexpected(`"]"`)
			}
			continue
		}
		parts[colons] = p.expression()
		if !p.is(":") && !p.is("]") {
			p.unexpected(`"]"`)
		}
	}
	if p.tokens[p.at-1].text == "[" && p.tokens[p.at-1].kind == operatorToken {
		p.unexpected("an index")
	}
	p.expect("]")
	if colons == 0 {
		return func(r *run, s *scope, v value) value { return r.item(v, parts[0](r, s)) }
	}
	return func(r *run, s *scope, v value) value {
		return r.slice(v, parts[0](r, s), parts[1](r, s), parts[2](r, s))
	}
}

func (p *parser) call() step {
	line := p.peek().line
	given := p.args()
	return func(r *run, s *scope, f value) value {
		a := given.eval(r, s)
		r.line = line
		switch f := f.(type) {
		case *function:
			return f.call(r, a)
		case *method:
			return f.call(r, a)
		case undefined:
			r.fail("%q is undefined, so it cannot be called", f.name)
		}
		r.fail("a %s cannot be called", typeName(f))
		return nil
	}
}

// arguments are those of a call, a filter or a test, before they are computed.
type arguments struct {
	list, named []expression
	names       []string // of the named ones
}

// args reads arguments after "(".
func (p *parser) args() (a arguments) {
	for first := true; !p.take(")"); first = false {
		if !first {
			p.expect(",")
			if p.take(")") {
				break
			}
		}
		if t := p.peek(); t.kind == nameToken && p.tokens[p.at+1].kind == operatorToken && p.tokens[p.at+1].text == "=" {
			p.at += 2
			a.names = append(a.names, t.text)
			a.named = append(a.named, p.expression())
			continue
		}
		if a.named != nil {
			p.unexpected("a named argument")
		}
		a.list = append(a.list, p.expression())
	}
	return a
}

func (a arguments) eval(r *run, s *scope) args {
	r.spend(itemCost * (len(a.list) + len(a.named)))
	out := args{names: a.names}
	for _, e := range a.list {
		out.list = append(out.list, e(r, s))
	}
	for _, e := range a.named {
		out.named = append(out.named, e(r, s))
	}
	return out
}

// filtered reads the filters and tests after a value. A call can follow them too.
func (p *parser) filtered(e expression) expression {
	var steps []step
	for {
		switch {
		case p.take("|"):
			t := p.expectKind(nameToken, "the name of a filter")
			f, ok := filters[t.text]
			if !ok {
				fail(t.line, "the filter %q is not supported", t.text)
			}
			var given arguments
			if p.take("(") {
				given = p.args()
			}
			for _, name := range given.names {
				if f.params != nil && !slices.Contains(f.params, name) {
					fail(t.line, "the argument %q of the filter %q is not supported", name, t.text)
				}
			}
			steps = append(steps, func(r *run, s *scope, v value) value {
				a := given.eval(r, s)
				r.line = t.line
				return f.on(r, t.text, v, a)
			})
		case p.take("is"):
			steps = append(steps, p.test())
			if p.is("is") {
				p.unexpected("the end of the test")
			}
		case p.is("(") && p.peek().kind == operatorToken:
			p.next()
			steps = append(steps, p.call())
		default:
			return chain(e, steps)
		}
	}
}

func (p *parser) test() step {
	not := p.take("not")
	t := p.expectKind(nameToken, "the name of a test")
	f, ok := tests[t.text]
	if !ok {
		fail(t.line, "the test %q is not supported", t.text)
	}
	var given arguments
	next := p.peek()
	switch {
	case p.take("("):
		given = p.args()
	case p.is("else") || p.is("or") || p.is("and"):
	case next.kind == nameToken || next.kind == stringToken || next.kind == intToken || next.kind == floatToken || p.is("[") || p.is("{"):
		if !f.takes { // Jinja takes any of these for an argument, "if" and "in" too
			p.unexpected("the end of the test")
		}
		given.list = []expression{p.postfix(p.primary())}
	}
	if want := map[bool]int{true: 1}[f.takes]; len(given.list) != want || given.named != nil {
		fail(t.line, "the test %q takes %d arguments", t.text, want)
	}
	return func(r *run, s *scope, v value) value {
		a := value(nil)
		if f.takes {
			a = given.list[0](r, s)
		}
		r.line = t.line
		return f.holds(r, v, a) != not
	}
}
