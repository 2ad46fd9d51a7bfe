package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"chorus/model/train"
)

// A domain is text of one kind and where it is.
type domain struct {
	name     string
	words    string // for people
	suffixes []string
	paths    []string
	limit    int64 // bytes that are trained on; 0 for all

	also []string // documents to train on besides
}

// textBytes bounds what is kept in memory of one domain; a larger source is sampled.
const textBytes = 4 << 20

func (d domain) source() train.Source {
	return train.Source{Paths: d.paths, Suffixes: d.suffixes, Limit: d.limit, Also: d.also}
}

func (d domain) read() (*train.Corpus, error) {
	c, err := train.ReadCorpus(textBytes, d.suffixes, d.paths...)
	return c, d.hint(err)
}

// hint says what to do about an error of reading d.
func (d domain) hint(err error) error {
	if errors.Is(err, train.ErrNoText) {
		return withHint(err, fmt.Sprintf("name other text with --data %s=PATH", d.name))
	}
	return err
}

// publicDomain is the name of the text that the anchor is trained on.
const publicDomain = "public"

// goDomains are texts that every machine with Go has: documentation for the anchor, and for the
// members prose, Go source and assembly, of which the documentation holds none.
func goDomains() (public domain, members []domain, err error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return public, nil, withHint(fmt.Errorf("the text to learn from is that of the Go distribution, and `go env GOROOT` failed: %w", err),
			"install Go, or name your own text with --data public=PATH --data NAME=PATH")
	}
	root := strings.TrimSpace(string(out))
	in := func(paths ...string) (all []string) {
		for _, p := range paths {
			if path := filepath.Join(root, filepath.FromSlash(p)); exists(path) {
				all = append(all, path)
			}
		}
		return all
	}
	public = domain{publicDomain, "Go's documentation and API lists", []string{".html", ".md", ".txt"},
		in("doc", "api", "src/cmd", "src/runtime", "src/internal"), textBytes, nil}
	members = []domain{
		{"prose", "Isaac Newton's Opticks, 1704", nil, in("src/testdata/Isaac.Newton-Opticks.txt"), textBytes, nil},
		{"go", "Go source code", []string{".go"}, in("src/net", "src/encoding", "src/go", "src/image", "src/text", "src/database"), textBytes, nil},
		{"assembly", "assembly of a dozen processors", []string{".s"}, in("src"), textBytes, nil},
	}
	for _, d := range append(members, public) {
		if len(d.paths) == 0 {
			return public, nil, withHint(fmt.Errorf("the Go distribution in %s is not complete: no %s", root, d.words),
				"install Go from its own archive, or name your own text with --data public=PATH --data NAME=PATH")
		}
	}
	return public, members, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// parseData reads the values of --data, each NAME=PATH; a name may occur more than once.
func parseData(values []string) ([]domain, error) { return parseNamed("--data", values) }

// parseNamed is [parseData] for any flag.
func parseNamed(flag string, values []string) ([]domain, error) {
	var out []domain
next:
	for _, v := range values {
		name, path, ok := strings.Cut(v, "=")
		if !ok || path == "" || !validName(name) {
			return nil, usageError{fmt.Errorf("%s %s: expected NAME=PATH, with a name of a-z, 0-9 and -", flag, v)}
		}
		if !exists(path) {
			return nil, fmt.Errorf("%s %s: there is no %s", flag, v, path)
		}
		for i := range out {
			if out[i].name == name {
				out[i].paths = append(out[i].paths, path)
				continue next
			}
		}
		out = append(out, domain{name, path, nil, []string{path}, 0, nil})
	}
	return out, nil
}

func validName(s string) bool {
	ok := len(s) > 0 && len(s) <= 30 && s[0] != '-'
	for _, c := range s {
		ok = ok && (c == '-' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9')
	}
	return ok
}
