package tokenizer

import "unicode/utf8"

// splitter returns the length of the first piece of text, which is not empty.
// The concatenation of all pieces is the text.
type splitter func(text string) int

// The patterns that are understood, as tokenizer.json spells them. Each has a
// scanner below that does in one pass what the regular expression says: a
// backtracking engine would be slower by an order of magnitude, and could be
// made to run for ever by the pattern of a file that a stranger wrote.
const (
	gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

	// cl100k's, dolma2's, Llama 3's, and that of every tokenizer from Train.
	cl100kPattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// newSplitter returns nil for a pattern that is not understood.
func newSplitter(pattern string) splitter {
	c := classesOnce()
	switch pattern {
	case gpt2Pattern:
		return c.gpt2
	case cl100kPattern:
		return c.cl100k
	}
	return nil
}

func (c *classes) gpt2(s string) int {
	if n := contraction(s, 0); n > 0 {
		return n
	}
	first, n := c.first(s)
	if s[0] == ' ' && n < len(s) {
		// ` ?` takes the space if something other than space follows.
		if class, width := c.first(s[n:]); class != space {
			return c.run(s, n+width, class)
		}
	}
	if first == space {
		return c.spaces(s, n)
	}
	return c.run(s, n, first)
}

func (c *classes) cl100k(s string) int {
	if n := contraction(s, 'a'-'A'); n > 0 {
		return n
	}
	first, n := c.first(s)
	switch first {
	case letter:
		return c.run(s, n, letter)
	case number:
		for range 2 {
			if class, width := c.first(s[n:]); class == number {
				n += width
			}
		}
		return n
	}
	second, width := c.first(s[n:])
	if second == letter && !newline(s[0]) {
		return c.run(s, n+width, letter) // `[^\r\n\p{L}\p{N}]?\p{L}+`
	}
	if first == other || s[0] == ' ' && second == other {
		n = c.run(s, n, other)
		for n < len(s) && newline(s[n]) {
			n++
		}
		return n
	}

	// A run of space. `\s*[\r\n]+` ends behind its last newline.
	end := c.run(s, n, space)
	for i := end; i > 0; i-- {
		if newline(s[i-1]) {
			return i
		}
	}
	return c.spaces(s, n)
}

// contraction returns the length of what `'s|'t|'re|'ve|'m|'ll|'d` matches at
// the beginning of s. With fold 'a'-'A' it is `(?i:…)`, where ſ is an s too.
func contraction(s string, fold byte) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	switch s[1] | fold {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && s[2]|fold == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && s[2]|fold == 'l' {
			return 3
		}
	}
	if fold != 0 && len(s) > 2 && s[1:3] == "ſ" {
		return 3
	}
	return 0
}

func newline(b byte) bool { return b == '\r' || b == '\n' }

// spaces is `\s+(?!\S)|\s+` where s begins with a space n bytes long: all of
// the run but its last character, which goes with what follows, unless
// nothing follows or there is no other.
func (c *classes) spaces(s string, n int) int {
	end := c.run(s, n, space)
	if end == len(s) || end == n {
		return end
	}
	_, width := utf8.DecodeLastRuneInString(s[:end])
	return end - width
}

// run returns where the characters of that class from n on end.
func (c *classes) run(s string, n int, of class) int {
	for n < len(s) {
		found, width := c.first(s[n:])
		if found != of {
			break
		}
		n += width
	}
	return n
}

// first returns class and length of the first character of s, none and 0 if
// there is none. A byte that is not UTF-8 counts as U+FFFD.
func (c *classes) first(s string) (class, int) {
	if len(s) == 0 {
		return none, 0
	}
	if b := s[0]; b < utf8.RuneSelf {
		return c.pages[0][b], 1
	}
	r, width := utf8.DecodeRuneInString(s)
	return c.pages[r>>8][r&0xff], width
}
