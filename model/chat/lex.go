package chat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A kind of token. Names, operators and the words of the language are told apart by their text.
type tokenKind int

const (
	textToken  tokenKind = iota // template text, to be written as it is
	beginBlock                  // {%
	endBlock                    // %}
	beginPrint                  // {{
	endPrint                    // }}
	nameToken
	stringToken
	intToken
	floatToken
	operatorToken
	endToken // of the template
)

type token struct {
	kind tokenKind
	text string // of a string: what it stands for
	line int
}

// lexer splits a template as jinja2.lexer does with trim_blocks and lstrip_blocks.
type lexer struct {
	src    string
	at     int
	line   int
	tokens []token
}

// A syntaxError is what the lexer and the parser panic with; [parse] returns it.
type syntaxError struct{ err error }

func fail(line int, format string, args ...any) {
	panic(syntaxError{fmt.Errorf("line %d: "+format, append([]any{line}, args...)...)})
}

// isSpace is Python's str.isspace of one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func lex(src string) []token {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	l := &lexer{src: strings.TrimSuffix(src, "\n"), line: 1}
	lineStart := true // whether what comes now begins a line
	for l.at < len(l.src) {
		rest := l.src[l.at:]
		tag := strings.IndexByte(rest, '{')
		for tag >= 0 && (tag+1 == len(rest) || !strings.ContainsRune("{%#", rune(rest[tag+1]))) {
			next := strings.IndexByte(rest[tag+1:], '{')
			if next < 0 {
				tag = -1
				break
			}
			tag += 1 + next
		}
		if tag < 0 {
			l.add(textToken, rest)
			break
		}
		text, kind := rest[:tag], rest[tag+1]
		size := 2
		sign := byte(0)
		if tag+2 < len(rest) && (rest[tag+2] == '-' || rest[tag+2] == '+') {
			sign = rest[tag+2]
			size = 3
		}
		kept := text
		if sign == '-' {
			kept = strings.TrimRightFunc(text, isSpace)
		} else if at := strings.LastIndexByte(text, '\n') + 1; sign == 0 && kind != '{' && (at > 0 || lineStart) && strings.TrimFunc(text[at:], isSpace) == "" {
			kept = text[:at]
		}
		if kept != "" {
			l.add(textToken, kept)
		}
		l.skip(tag + size)
		switch kind {
		case '#':
			end := strings.Index(l.src[l.at:], "#}")
			if end < 0 {
				fail(l.line, "a comment has no end")
			}
			signed := byte(0)
			if end > 0 {
				signed = l.src[l.at+end-1]
			}
			l.skip(end + 2)
			lineStart = l.afterTag(signed, true)
		case '%':
			l.add(beginBlock, "{%")
			lineStart = l.inside('%', endBlock)
		default:
			l.add(beginPrint, "{{")
			lineStart = l.inside('}', endPrint)
		}
	}
	l.add(endToken, "the end of the template")
	return l.tokens
}

func (l *lexer) add(kind tokenKind, text string) {
	l.tokens = append(l.tokens, token{kind, text, l.line})
}

// skip moves on by n bytes.
func (l *lexer) skip(n int) {
	l.line += strings.Count(l.src[l.at:l.at+n], "\n")
	l.at += n
}

// afterTag takes the whitespace that belongs to the end of a tag, and reports whether a line begins.
func (l *lexer) afterTag(sign byte, block bool) bool {
	begin := l.at
	switch {
	case sign == '-':
		l.skip(len(l.src[l.at:]) - len(strings.TrimLeftFunc(l.src[l.at:], isSpace)))
	case block && sign != '+' && strings.HasPrefix(l.src[l.at:], "\n"):
		l.skip(1)
	}
	return l.at > begin && l.src[l.at-1] == '\n'
}

var (
	operators2 = []string{"//", "**", "==", "!=", ">=", "<="}
	operators1 = "+-/*%~[](){}><=.:|,;"
	closes     = map[byte]byte{'(': ')', '[': ']', '{': '}'}
)

// inside reads the tokens of a tag, its end included.
func (l *lexer) inside(end byte, kind tokenKind) (lineStart bool) {
	var open []byte // the brackets that are to be closed
	for l.at < len(l.src) {
		rest := l.src[l.at:]
		c := rest[0]
		if len(open) == 0 {
			signed := len(rest) > 2 && (c == '-' || c == '+' && end == '%')
			for _, n := range []int{0, 1} {
				if n == 1 && !signed || len(rest) < n+2 || rest[n] != end || rest[n+1] != '}' {
					continue
				}
				l.add(kind, rest[n:n+2])
				l.skip(n + 2)
				sign := byte(0)
				if n == 1 {
					sign = c
				}
				return l.afterTag(sign, end == '%')
			}
		}
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case isSpace(r):
			l.skip(size)
		case c >= '0' && c <= '9':
			l.number(rest)
		case c == '_' || c < utf8.RuneSelf && unicode.IsLetter(rune(c)):
			n := 1
			for n < len(rest) && (rest[n] == '_' || rest[n] < utf8.RuneSelf && (unicode.IsLetter(rune(rest[n])) || unicode.IsDigit(rune(rest[n])))) {
				n++
			}
			if n < len(rest) && rest[n] >= utf8.RuneSelf {
				fail(l.line, "the name %q goes on with a character that is not ASCII", rest[:n])
			}
			l.add(nameToken, rest[:n])
			l.skip(n)
		case c == '"' || c == '\'':
			l.str(rest)
		default:
			op := ""
			for _, two := range operators2 {
				if strings.HasPrefix(rest, two) {
					op = two
				}
			}
			if op == "" && strings.IndexByte(operators1, c) >= 0 {
				op = rest[:1]
			}
			switch {
			case op == "":
				fail(l.line, "unexpected character %q", r)
			case closes[c] != 0:
				open = append(open, closes[c])
			case c == ')' || c == ']' || c == '}':
				if len(open) == 0 || open[len(open)-1] != c {
					fail(l.line, "unexpected %q", c)
				}
				open = open[:len(open)-1]
			}
			l.add(operatorToken, op)
			l.skip(len(op))
		}
	}
	fail(l.line, "a tag has no end")
	return false
}

// number reads a decimal number. Jinja's other forms are refused.
func (l *lexer) number(s string) {
	digits := func(n int) int {
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	n, kind := digits(0), intToken
	if n+1 < len(s) && s[n] == '.' && digits(n+1) > n+1 {
		n, kind = digits(n+1), floatToken
	}
	if n < len(s) && (s[n] == '_' || unicode.IsLetter(rune(s[n]))) || kind == intToken && n > 1 && s[0] == '0' {
		fail(l.line, "a number that begins with %q is not supported", s[:min(n+1, len(s))])
	}
	l.add(kind, s[:n])
	l.skip(n)
}

var escapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': `"`, 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v"}

// str reads a string literal, with those of Python's escapes that occur.
func (l *lexer) str(s string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == s[0]:
			l.add(stringToken, b.String())
			l.skip(i + 1)
			return
		case c != '\\' || i+1 == len(s):
			b.WriteByte(c)
		default:
			i++
			hex := map[byte]int{'x': 2, 'u': 4}[s[i]]
			switch known, ok := escapes[s[i]]; {
			case ok:
				b.WriteString(known)
			case hex > 0 && i+hex < len(s):
				n, err := strconv.ParseUint(s[i+1:i+1+hex], 16, 32)
				if err != nil || !utf8.ValidRune(rune(n)) {
					fail(l.line, `unsupported escape \%s in a string`, s[i:i+1+hex])
				}
				b.WriteRune(rune(n))
				i += hex
			case s[i] >= utf8.RuneSelf || strings.IndexByte("NU01234567xu\n", s[i]) >= 0:
				fail(l.line, `unsupported escape \%c in a string`, s[i])
			default: // Python leaves an unknown escape as it is
				b.WriteByte('\\')
				b.WriteByte(s[i])
			}
		}
	}
	fail(l.line, "a string has no end")
}
