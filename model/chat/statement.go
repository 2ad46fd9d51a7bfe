package chat

import (
	"fmt"
	"slices"
)

// statements are read by their first word, which is the next token. A parser holds them, since they read bodies.
var statements = map[string]func(p *parser, line int) statement{
	"break": (*parser).breakStatement, "continue": (*parser).continueStatement, "for": (*parser).forStatement,
	"generation": (*parser).generationStatement, "if": (*parser).ifStatement, "macro": (*parser).macroStatement, "set": (*parser).setStatement,
}

func (p *parser) breakStatement(line int) statement    { return p.jump(line, breakLoop) }
func (p *parser) continueStatement(line int) statement { return p.jump(line, continueLoop) }

func (p *parser) jump(line int, f flow) statement {
	p.next()
	if p.loops == 0 {
		fail(line, "break and continue stand in a loop only")
	}
	p.expectKind(endBlock, "%}")
	return func(*run, *scope) flow { return f }
}

func (p *parser) ifStatement(line int) statement {
	type branch struct {
		test expression
		body statement
	}
	var branches []branch
	otherwise := sequenceOf(nil)
	for p.take("if") || p.take("elif") {
		test := p.plain()
		p.expectKind(endBlock, "%}")
		branches = append(branches, branch{test, p.body("elif", "else", "endif")})
	}
	if p.take("else") {
		p.expectKind(endBlock, "%}")
		otherwise = p.body("endif")
	}
	p.end("endif")
	return func(r *run, s *scope) flow {
		for _, b := range branches {
			r.line = line
			if truth(b.test(r, s)) {
				return b.body(r, s)
			}
		}
		return otherwise(r, s)
	}
}

func (p *parser) forStatement(line int) statement {
	p.next()
	var targets []token
	closed := p.take("(")
	for len(targets) == 0 || p.take(",") {
		targets = append(targets, p.expectKind(nameToken, "a name"))
	}
	if closed {
		p.expect(")")
	}
	p.expect("in")
	over := p.plain() // in the frame around: the loop's variables are not there yet
	p.enter()
	var names []string
	for _, t := range targets {
		names = append(names, p.declare(t))
	}
	var test expression
	if p.take("if") {
		test = p.expression()
	}
	p.expectKind(endBlock, "%}")
	p.loops++
	body := p.body("else", "endfor")
	p.loops--
	p.leave()
	otherwise := sequenceOf(nil)
	if p.take("else") {
		p.expectKind(endBlock, "%}")
		p.enter()
		otherwise = p.body("endfor")
		p.leave()
	}
	p.end("endfor")
	bind := func(r *run, s *scope, item value) *scope {
		r.spend(scopeCost)
		in := s.inner()
		if len(names) == 1 {
			in.m[names[0]] = item
			return in
		}
		parts := r.iterate(item)
		if len(parts) != len(names) {
			r.fail("a loop over %d names got %d values", len(names), len(parts))
		}
		for i, name := range names {
			in.m[name] = parts[i]
		}
		return in
	}
	return func(r *run, s *scope) flow {
		r.line = line
		items := r.iterate(over(r, s))
		if test != nil {
			// Jinja tests each item when the loop comes to it: see [run.own] for what keeps this the same.
			r.filtering++
			items = slices.DeleteFunc(slices.Clone(items), func(item value) bool { return !truth(test(r, bind(r, s, item))) })
			r.filtering--
		}
		ended := false // whether a round came to the end of the body: if none did, Jinja goes to else
		for i, item := range items {
			in := bind(r, s, item)
			in.m["loop"] = &loop{items, i}
			f := body(r, in)
			if ended = ended || f == goOn; f == breakLoop {
				break
			}
		}
		if !ended {
			return otherwise(r, s.inner())
		}
		return goOn
	}
}

func (p *parser) setStatement(line int) statement {
	p.next()
	t := p.expectKind(nameToken, "a name")
	assign := func(_ *run, s *scope, v value) { s.m[t.text] = v }
	declare := func() { p.declare(t) }
	if p.take(".") {
		member := p.expectKind(nameToken, "a name")
		p.read(t)
		declare = func() {}
		assign = func(r *run, s *scope, v value) {
			ns, ok := s.find(t.text).(*namespace)
			if !ok {
				r.fail("%s is not a namespace, so %s.%s cannot be set", t.text, t.text, member.text)
			}
			ns.m[member.text] = v
		}
	}
	if p.take("=") {
		e := p.expression()
		declare()
		p.expectKind(endBlock, "%}")
		return func(r *run, s *scope) flow {
			r.line = line
			assign(r, s, e(r, s))
			return goOn
		}
	}
	p.expectKind(endBlock, "%}")
	body := p.apart("endset")
	declare()
	return func(r *run, s *scope) flow {
		assign(r, s, r.capture(body, s.inner()))
		return goOn
	}
}

// apart reads a body with a frame of its own, out of which no break or continue leads.
func (p *parser) apart(end string) statement {
	loops := p.loops
	p.loops = 0
	p.enter()
	body := p.body(end)
	p.leave()
	p.loops = loops
	p.end(end)
	return body
}

// generationStatement reads {% generation %}, by which transformers finds what the assistant said.
func (p *parser) generationStatement(int) statement {
	p.next()
	p.expectKind(endBlock, "%}")
	body := p.apart("endgeneration")
	return func(r *run, s *scope) flow { return body(r, s.inner()) }
}

func (p *parser) macroStatement(line int) statement {
	p.next()
	if p.loops > 0 {
		fail(line, "a macro in a loop is not supported")
	}
	name := p.expectKind(nameToken, "a name")
	p.declare(name)
	p.enter()
	var params []string
	var defaults []expression // nil where there is none
	p.expect("(")
	for !p.take(")") {
		if len(params) > 0 {
			p.expect(",")
		}
		params = append(params, p.declare(p.expectKind(nameToken, "a name")))
		defaults = append(defaults, nil)
		if p.take("=") {
			defaults[len(params)-1] = p.expression()
		}
	}
	p.expectKind(endBlock, "%}")
	body := p.apart("endmacro")
	p.leave()
	return func(_ *run, s *scope) flow {
		s.m[name.text] = &function{name.text, func(r *run, a args) value {
			if r.depth++; r.depth > maxCalls {
				r.fail("macros call each other more than %d deep", maxCalls)
			}
			defer func() { r.depth-- }()
			r.spend(scopeCost)
			in := s.inner()
			line := r.line
			for i, v := range r.bind(a, name.text, params) {
				if v != missing {
					in.m[params[i]] = v
				} else if defaults[i] == nil {
					in.m[params[i]] = undefined{fmt.Sprintf("%s of %s", params[i], name.text)}
				}
			}
			for i, param := range params {
				if _, ok := in.m[param]; !ok {
					in.m[param] = defaults[i](r, in)
				}
			}
			text := r.capture(body, in)
			r.line = line
			return text
		}}
		return goOn
	}
}
