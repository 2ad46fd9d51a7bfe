// Package chat turns a conversation into the prompt that a model was trained on, by the chat template
// that stands beside its tokenizer in a Hugging Face folder. It gives, byte for byte, what
// transformers' apply_chat_template gives with tokenize=False, or it refuses.
//
// A chat template is a program in Jinja's language. This package reads the part of that language that
// the templates of published models use, with Python's meaning of it: undefined names, methods of str
// and dict, what counts as true, how whitespace around tags is taken. Whatever it does not know
// exactly it refuses, with the line: when the template is read if the construct can be seen there, and
// else when it is reached. It is no general template engine.
//
// A template can be anybody's program, so what one rendering may do is bounded, in time and in
// memory. It reaches no file, and nothing but its messages and the date.
//
// Begin with [Load].
package chat

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	templateFile = "chat_template.jinja"
	maxTemplate  = 1 << 20 // bytes
)

// ErrNone is returned by [Load] for a folder without a chat template.
var ErrNone = errors.New("no chat template")

// A Refusal is the error of a template that refuses the messages by raise_exception, in its own words.
type Refusal struct{ Message string }

func (e *Refusal) Error() string { return e.Message }

// A Message is one turn of a conversation.
type Message struct {
	Role    string // such as "system", "user" or "assistant": the template decides which there are
	Content string
}

// A Template is immutable and may be used concurrently.
type Template struct {
	body   statement
	reads  map[string]bool   // the variables that it reads
	tokens map[string]string // bos_token and the like
	now    func() time.Time  // nil: the clock
}

// Load reads the chat template of a Hugging Face folder: `chat_template.jinja`, or else the
// `chat_template` of `tokenizer_config.json`, of several the one named "default". Its error names the
// file, and for a template the line.
func Load(dir string) (*Template, error) {
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	name := templateFile
	src, err := readFile(dir, templateFile, maxTemplate)
	switch {
	case err != nil:
		return nil, err
	case src == nil && c.template == nil:
		return nil, ErrNone
	case src == nil:
		name, src = configFile+": chat_template", []byte(*c.template)
	}
	t, err := newTemplate(string(src), c.tokens)
	if err == nil {
		err = c.names(t.reads)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return t, nil
}

// readFile returns nil if there is no such file.
func readFile(dir, name string, limit int64) ([]byte, error) {
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return b, nil
}

func newTemplate(src string, tokens map[string]string) (*Template, error) {
	if len(src) > maxTemplate {
		return nil, fmt.Errorf("larger than %d bytes", maxTemplate)
	}
	if !utf8.ValidString(src) {
		return nil, errors.New("not UTF-8")
	}
	body, reads, err := parse(src)
	if err != nil {
		return nil, err
	}
	return &Template{body: body, reads: reads, tokens: tokens}, nil
}

// Render gives the prompt for a conversation. With generate the prompt ends where the assistant's
// answer begins. What the template itself refuses is a [*Refusal]; any other error means that the
// template, or Python in its place, cannot make a prompt of these messages.
func (t *Template) Render(messages []Message, generate bool) (string, error) {
	list := &sequence{}
	for i, m := range messages {
		if !utf8.ValidString(m.Role) || !utf8.ValidString(m.Content) {
			return "", fmt.Errorf("message %d is not UTF-8", i)
		}
		d := newDict()
		d.set("role", m.Role)
		d.set("content", m.Content)
		list.items = append(list.items, d)
	}
	return t.render(map[string]value{"messages": list, "tools": nil, "documents": nil, "add_generation_prompt": generate})
}

// render runs the template on what it is given.
func (t *Template) render(vars map[string]value) (text string, err error) {
	defer func() {
		if e := recover(); e != nil {
			stopped, ok := e.(runError)
			if !ok {
				panic(e)
			}
			text, err = "", stopped.err
		}
	}()
	s := &scope{m: make(map[string]value)}
	for name, v := range functions {
		s.m[name] = v
	}
	for name, token := range t.tokens {
		s.m[name] = token
	}
	for name, v := range vars {
		s.m[name] = v
	}
	r := &run{out: new(strings.Builder), filters: filters, now: t.now, work: maxWork}
	t.body(r, s.inner())
	return r.out.String(), nil
}
