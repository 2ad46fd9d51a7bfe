package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"chorus/model/eval"
	"chorus/model/tokenizer"
	"chorus/model/train"
)

// The folders of domains that have a part of their own. The others are members' too.
const (
	publicDomain = "public" // the anchor's
	codeDomain   = "code"   // made of the Go distribution
	mixedSet     = "mixed"  // evaluated, and of no domain
)

// endOfText ends each document.
const endOfText = "<|endoftext|>"

// A paperText is text to evaluate on.
type paperText struct {
	name   string
	ids    []int32
	bytes  int64
	digest string
}

// A paperDomain is the text of one domain.
type paperDomain struct {
	name           string
	train          *train.Tokens
	documents      []string // of train, if the domain is public
	valid, heldout []string
}

// paperData is all text of a trial. The first domain is public.
type paperData struct {
	tok            *tokenizer.Tokenizer
	eos            int
	domains        []*paperDomain
	valid, heldout []*paperText  // by domain, and mixed last
	pooled         *train.Tokens // what all domains train on
	classifier     *eval.Classifier
	digests        map[*train.Tokens]string
}

// Sizes of documents that cross domains, a few hundred tokens each, in passages and in bytes of each.
const (
	mixedPassages               = 4
	passageLeast, passageMost   = 200, 400
	largestRecord, largestPiece = 1 << 20, 2 << 10
)

// readPaperData reads the domains in dir, and code, and trains a tokenizer on public text or loads the one that was kept in cache.
func readPaperData(ctx context.Context, dir, cache string, s paperScale) (*paperData, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := []string{publicDomain}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "train.jsonl.gz")); err == nil && e.Name() != publicDomain {
			names = append(names, e.Name())
		}
	}
	d := &paperData{digests: make(map[*train.Tokens]string)}
	texts := make(map[string][]string) // to train on
	read := func(p *paperDomain, parts [3][]string) {
		texts[p.name], p.valid, p.heldout = parts[0], parts[1], parts[2]
		d.domains = append(d.domains, p)
	}
	for _, name := range names {
		var parts [3][]string
		for i, part := range []string{"train", "valid", "heldout"} {
			if parts[i], err = readRecords(filepath.Join(dir, name, part+".jsonl.gz")); err != nil {
				return nil, err
			}
		}
		read(&paperDomain{name: name}, parts)
	}
	if !slices.Contains(names, codeDomain) {
		parts, err := readCode(ctx)
		if err != nil {
			return nil, err
		}
		read(&paperDomain{name: codeDomain}, parts)
	}
	if err := d.tokenizer(texts[publicDomain], cache, s.vocab); err != nil {
		return nil, err
	}
	var all [][]int32
	d.pooled = new(train.Tokens)
	for _, p := range d.domains {
		p.train = train.Encode(texts[p.name], d.tok.Encode, d.eos, s.trainTokens)
		d.digests[p.train] = digest(p.train.IDs)
		all = append(all, p.train.IDs)
		d.pooled.IDs, d.pooled.Bytes = append(d.pooled.IDs, p.train.IDs...), d.pooled.Bytes+p.train.Bytes
	}
	d.digests[d.pooled] = digest(d.pooled.IDs)
	d.domains[0].documents = texts[publicDomain]
	d.classifier = eval.NewClassifier(d.tok.VocabSize(), all...)
	d.valid = d.sets(s.evalBytes/2, func(p *paperDomain) []string { return p.valid })
	d.heldout = d.sets(s.evalBytes, func(p *paperDomain) []string { return p.heldout })
	return d, nil
}

// tokenizer trains or loads the tokenizer.
func (d *paperData) tokenizer(texts []string, cache string, vocab int) error {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintf(h, "%d %s", len(t), t)
	}
	path := filepath.Join(cache, fmt.Sprintf("tokenizer-%d-%x.json", vocab, h.Sum(nil)[:6]))
	tok, err := tokenizer.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		if tok, err = tokenizer.Train(slices.Values(texts), vocab, []string{endOfText}); err == nil {
			err = tok.Save(path)
		}
	}
	if err != nil {
		return err
	}
	d.tok = tok
	d.eos, _ = tok.SpecialID(endOfText)
	return nil
}

// sets returns about bytes of each domain's documents, and as much that crosses domains.
func (d *paperData) sets(bytes int64, documents func(*paperDomain) []string) []*paperText {
	var out []*paperText
	var all [][]string
	encode := func(name string, docs []string) {
		t := train.Encode(docs, d.tok.Encode, d.eos, 0)
		out = append(out, &paperText{name, t.IDs, t.Bytes, digest(t.IDs)})
	}
	for _, p := range d.domains {
		all = append(all, documents(p))
		var some []string
		left := bytes
		for _, doc := range documents(p) {
			if left > 0 {
				some = append(some, doc)
				left -= int64(len(doc))
			}
		}
		encode(p.name, some)
	}
	n := int(bytes / (mixedPassages * (passageLeast + passageMost) / 2))
	encode(mixedSet, eval.MixedDocuments(all, n, mixedPassages, passageLeast, passageMost, 1))
	return out
}

func digest(ids []int32) string {
	h := sha256.New()
	for _, id := range ids {
		h.Write([]byte{byte(id), byte(id >> 8), byte(id >> 16)})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// readRecords returns the documents of a file of JSON lines, in an order that their content decides.
func readRecords(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []string
	lines := bufio.NewReaderSize(z, largestRecord)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			break
		} else if err != nil && err != io.EOF {
			return nil, fmt.Errorf("%s: line %d: %w", path, n, err)
		}
		var record struct {
			Text string `json:"text"`
		}
		if err := json.Unmarshal(line, &record); err != nil || record.Text == "" {
			return nil, fmt.Errorf("%s: line %d: expected an object with a text", path, n)
		}
		out = append(out, record.Text)
	}
	return shuffled(out), nil
}

// generated is how a Go file says that a program wrote it (go help generate).
var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// readCode returns the Go files of the Go distribution that people wrote, in pieces, split by package: of ten packages one is valid and one held out.
func readCode(ctx context.Context) (parts [3][]string, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return parts, fmt.Errorf("go env GOROOT: %w", err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() == "testdata":
			return fs.SkipDir
		case e.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil || !utf8.Valid(b) || generated.Match(b) {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		part := 0
		switch hash(filepath.ToSlash(folder)) % 10 {
		case 0:
			part = 1
		case 1:
			part = 2
		}
		for len(b) > 0 {
			n := min(len(b), largestPiece)
			if n < len(b) {
				if i := strings.LastIndex(string(b[:n]), "\n\n"); i > n/2 {
					n = i + 2
				} else if i := strings.LastIndex(string(b[:n]), "\n"); i > 0 {
					n = i + 1
				}
			}
			if text := string(b[:n]); utf8.ValidString(text) {
				parts[part] = append(parts[part], text)
			}
			b = b[n:]
		}
		return nil
	})
	for i := range parts {
		parts[i] = shuffled(parts[i])
		if err == nil && len(parts[i]) == 0 {
			err = fmt.Errorf("%s: %w", root, train.ErrNoText)
		}
	}
	return parts, err
}

// shuffled sorts documents by a hash of their content.
func shuffled(docs []string) []string {
	slices.SortStableFunc(docs, func(a, b string) int {
		x, y := hash(a), hash(b)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return docs
}

func hash(s string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, s)
	x := h.Sum64()
	x ^= x >> 31 // FNV's high bits say little of a text's last bytes
	x *= 0x9e3779b97f4a7c15
	return x ^ x>>29
}
