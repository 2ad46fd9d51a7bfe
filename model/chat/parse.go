package chat

import (
	"fmt"
	"slices"
	"strings"
)

// A template is compiled to closures: an expression gives a value, a statement writes to the run and
// says how the loop around it goes on.
type (
	expression func(r *run, s *scope) value
	statement  func(r *run, s *scope) flow
)

type flow int

const (
	goOn flow = iota
	breakLoop
	continueLoop
)

// maxNesting bounds how deep statements and expressions stand in each other.
const maxNesting = 100

type parser struct {
	tokens     []token
	at         int
	statements map[string]func(p *parser, line int) statement
	nesting    int
	loops      int // the loops around this statement, up to a macro or a generation tag
	frames     []*frame
	reads      map[string]bool // every variable that is read anywhere
}

// A frame is a part of the template with variables of its own.
type frame struct {
	names map[string]bool // read or set in it
	inner map[string]bool // read or set in a frame inside it, and not before in this one
}

// parse compiles a template, and says which variables it reads. Its errors name the line.
func parse(src string) (body statement, reads map[string]bool, err error) {
	defer func() {
		if e := recover(); e != nil {
			s, ok := e.(syntaxError)
			if !ok {
				panic(e)
			}
			err = s.err
		}
	}()
	p := &parser{tokens: lex(src), statements: statements, reads: make(map[string]bool)}
	p.enter()
	body = p.body()
	if p.peek().kind != endToken {
		p.unexpected("a statement")
	}
	return body, p.reads, nil
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != endToken {
		p.at++
	}
	return t
}

func (p *parser) unexpected(want string) {
	t := p.peek()
	fail(t.line, "found %q, expected %s", t.text, want)
}

// is reports whether the next token is that operator or word.
func (p *parser) is(text string) bool {
	t := p.peek()
	return (t.kind == operatorToken || t.kind == nameToken) && t.text == text
}

// take moves past that operator or word, if it comes next.
func (p *parser) take(text string) bool {
	if p.is(text) {
		p.at++
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if !p.take(text) {
		p.unexpected(fmt.Sprintf("%q", text))
	}
}

func (p *parser) expectKind(kind tokenKind, what string) token {
	if p.peek().kind != kind {
		p.unexpected(what)
	}
	return p.next()
}

// deeper counts nesting; the function that it returns ends it.
func (p *parser) deeper() func() {
	if p.nesting++; p.nesting > maxNesting {
		fail(p.peek().line, "nested more than %d deep", maxNesting)
	}
	return func() { p.nesting-- }
}

func (p *parser) enter() {
	p.frames = append(p.frames, &frame{make(map[string]bool), make(map[string]bool)})
}

func (p *parser) leave() {
	inner := p.frames[len(p.frames)-1]
	p.frames = p.frames[:len(p.frames)-1]
	outer := p.frames[len(p.frames)-1]
	for _, names := range []map[string]bool{inner.names, inner.inner} {
		for name := range names {
			if !outer.names[name] {
				outer.inner[name] = true
			}
		}
	}
}

var (
	reserved    = wordSet("true false none True False None not and or in is if else elif loop self super caller varargs kwargs")
	unsupported = wordSet("self super caller varargs kwargs dict lipsum cycler joiner")
	provided    = wordSet("messages tools documents add_generation_prompt range namespace raise_exception strftime_now")
)

// read notes that the frame reads a variable.
func (p *parser) read(t token) string {
	if unsupported[t.text] {
		fail(t.line, "%q is not supported", t.text)
	}
	p.frames[len(p.frames)-1].names[t.text] = true
	p.reads[t.text] = true
	return t.text
}

// declare notes that the frame sets a variable. Jinja decides ahead of time where a variable
// lives, and differs from what happens here if a frame sets what it was given after only an inner one read it.
func (p *parser) declare(t token) string {
	if reserved[t.text] || unsupported[t.text] {
		fail(t.line, "setting %q is not supported", t.text)
	}
	f := p.frames[len(p.frames)-1]
	known := slices.ContainsFunc(p.frames, func(f *frame) bool { return f.names[t.text] })
	if !known && f.inner[t.text] && (provided[t.text] || strings.HasSuffix(t.text, "_token")) {
		fail(t.line, "setting %q after a loop or macro has read it is not supported", t.text)
	}
	f.names[t.text] = true
	return t.text
}

// body reads statements up to a tag that begins with one of the words, which it leaves as the next token.
func (p *parser) body(until ...string) statement {
	defer p.deeper()()
	var all []statement
	for {
		t := p.peek()
		switch t.kind {
		case textToken:
			p.next()
			all = append(all, func(r *run, _ *scope) flow {
				r.write(t.text)
				return goOn
			})
			continue
		case beginPrint:
			p.next()
			e := p.expression()
			p.expectKind(endPrint, "}}")
			all = append(all, func(r *run, s *scope) flow {
				r.line = t.line
				r.write(r.str(e(r, s)))
				return goOn
			})
			continue
		case beginBlock:
			p.next()
			word := p.peek()
			if slices.Contains(until, word.text) && word.kind == nameToken {
				return sequenceOf(all)
			}
			read, ok := p.statements[word.text]
			if !ok || word.kind != nameToken {
				fail(word.line, "the statement %q is not supported here", word.text)
			}
			all = append(all, read(p, word.line))
			continue
		}
		if len(until) > 0 {
			p.unexpected("{% " + until[len(until)-1] + " %}")
		}
		return sequenceOf(all)
	}
}

func sequenceOf(all []statement) statement {
	return func(r *run, s *scope) flow {
		for _, do := range all {
			r.spend(stepCost)
			if f := do(r, s); f != goOn {
				return f
			}
		}
		return goOn
	}
}

// end reads the word that ends a block, and the end of its tag.
func (p *parser) end(word string) {
	p.expect(word)
	p.expectKind(endBlock, "%}")
}
