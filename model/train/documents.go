package train

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"
)

// A Source is where a text is: Paths, each a file or a folder searched for files whose names end in one of Suffixes (nil means
// [TextFiles]). A .jsonl or .jsonl.gz file has one document a line, in a field "text"; any other file is one document, or if it is
// long, several of about a megabyte.
type Source struct {
	Paths, Suffixes []string
	Limit           int64 // about how many bytes of text to train on, sampled evenly by document and held in memory; 0 for all there is

	Also []string // documents to train on besides, each as often as it is here
}

// TextFiles are the kinds of file read from a folder when no others are named.
var TextFiles = []string{".txt", ".md", ".jsonl", ".jsonl.gz"}

// Limits of what is read as text.
const (
	maxRecord    = 1 << 20 // bytes of one JSON line or one document
	pieceBytes   = 4 << 10 // a source of few documents is cut into pieces about this long
	fewDocuments = 40
)

// A document has a rank, which is of its content alone and decides which part of a corpus it belongs to, and what is sampled first.
type document struct {
	text string
	rank uint64
}

func ranked(text string) document { return document{text, rank(text)} }

func rank(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.LittleEndian.Uint64(sum[:])
}

// heldout and valid say to which part a document belongs: one in ten is held out, one in twenty serves to choose.
func (d document) heldout() bool { return d.rank%10 == 0 }
func (d document) valid() bool   { return d.rank%20 == 1 }

// A sourceFile is a file of a source as it was found.
type sourceFile struct {
	path     string
	size     int64
	modified int64 // ns
}

// files lists the files of a source, in the order of its paths and of names below each.
func (s Source) files() (all []sourceFile, err error) {
	suffixes := s.Suffixes
	if suffixes == nil {
		suffixes = TextFiles
	}
	for _, root := range s.Paths {
		if info, err := os.Stat(root); err != nil {
			return nil, err
		} else if info.IsDir() { // a link to a folder is not walked as it stands
			if root, err = filepath.EvalSymlinks(root); err != nil {
				return nil, err
			}
		}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir():
				return nil
			case path != root && !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(path, s) }):
				return nil
			}
			info, err := os.Stat(path)
			switch {
			case path != root && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP)): // a link that leads nowhere
				return nil
			case err != nil:
				return err
			case !info.Mode().IsRegular() && path != root:
				return nil
			}
			all = append(all, sourceFile{path, info.Size(), info.ModTime().UnixNano()})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// A stream passes on the documents of files one by one, each once, and holds no more than a few of them in memory.
type stream struct {
	take    func(document) error
	read    func(bytes int64) // is told of every read; may be nil
	skipped Skipped
	seen    hashes
	first   []document // until there are fewDocuments, and then nil
	flows   bool
}

// each calls take for the documents of files, those of s: in the order of files, but where s has a limit, those that are trained on come last,
// by rank.
func (s Source) each(ctx context.Context, files []sourceFile, take func(document) error, read func(bytes int64)) (Skipped, error) {
	if s.Limit == 0 {
		return each(ctx, files, take, read)
	}
	training := sample{limit: 2 * s.Limit}
	most := max(pieceBytes, int(min(s.Limit/leastSampled, maxRecord)))
	skipped, err := each(ctx, files, func(d document) error {
		if d.heldout() || d.valid() {
			return take(d)
		}
		if len(d.text) > most {
			d.text = strings.Clone(d.text[:cut([]byte(d.text[:most]))])
		}
		training.add(d)
		return nil
	}, read)
	for _, d := range training.within(s.Limit) {
		if err == nil {
			err = take(d)
		}
	}
	return skipped, err
}

// leastSampled is among how many documents a limit is shared at least, if there are so many: of longer ones only the beginning is taken.
const leastSampled = 64

// each calls take for every document of files, in their order. If there are few, it takes them in pieces.
func each(ctx context.Context, files []sourceFile, take func(document) error, read func(bytes int64)) (Skipped, error) {
	s := &stream{read: read, take: func(d document) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return take(d)
	}}
	for _, f := range files {
		if err := s.file(ctx, f.path); err != nil {
			return s.skipped, err
		}
	}
	return s.skipped, s.end()
}

// text takes one document in, unless it cannot be used.
func (s *stream) text(text string) error {
	d := ranked(text)
	switch {
	case !s.skipped.text(text):
	case !s.seen.add(d.rank):
		s.skipped.Duplicate++
	case s.flows:
		return s.take(d)
	default:
		if s.first = append(s.first, d); len(s.first) < fewDocuments {
			return nil
		}
		first := s.first
		s.first, s.flows = nil, true
		return s.takeAll(first)
	}
	return nil
}

func (s *stream) takeAll(documents []document) error {
	for _, d := range documents {
		if err := s.take(d); err != nil {
			return err
		}
	}
	return nil
}

// end passes on what is left: if there were few documents, all of them, in pieces.
func (s *stream) end() error {
	if s.flows {
		return nil
	}
	var seen hashes
	for _, d := range s.first {
		for _, piece := range pieces([]string{d.text}) {
			if p := ranked(piece); seen.add(p.rank) {
				if err := s.take(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *stream) file(ctx context.Context, path string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	take := s.whole
	if isRecords(path) {
		take = s.records
	}
	return readFile(path, s.read, &s.skipped, take)
}

func isRecords(path string) bool {
	return strings.HasSuffix(path, ".jsonl") || strings.HasSuffix(path, ".jsonl.gz")
}

// readFile calls take with what is in a file, which of a .jsonl.gz file is what it unpacks to, and tells read, which may be nil, of every
// read. If it can be unpacked no further, the file is counted, and what take has done stands.
func readFile(path string, read func(bytes int64), skipped *Skipped, take func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := io.Reader(f)
	if read != nil {
		r = &countingReader{f, read}
	}
	if !strings.HasSuffix(path, ".jsonl.gz") {
		return take(r)
	}
	r, err = gzip.NewReader(r)
	if err == nil {
		err = take(r)
	}
	if isBroken(err) {
		skipped.Broken++
		return nil
	}
	return err
}

// isBroken reports whether an error is one of what is packed, and not of reading it.
func isBroken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) ||
		errors.As(err, new(flate.CorruptInputError))
}

// whole takes r as one document, or as several if it is long. A file that begins with something else than text is not looked at further.
func (s *stream) whole(r io.Reader) error {
	buf := make([]byte, 0, maxRecord+1)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if len(buf) <= maxRecord {
			if len(buf) == 0 && !first {
				return nil
			}
			return s.text(string(buf))
		}
		n, skipped := cut(buf[:maxRecord]), s.skipped.NotText
		if err := s.text(string(buf[:n])); err != nil || first && s.skipped.NotText > skipped {
			return err
		}
		buf = buf[:copy(buf, buf[n:])]
	}
}

// records takes the text of each line of r, a JSON object.
func (s *stream) records(r io.Reader) error {
	return eachRecord(r, &s.skipped, func(line []byte) error {
		var record struct {
			Text *string `json:"text"`
		}
		if json.Unmarshal(line, &record) != nil || record.Text == nil {
			s.skipped.Malformed++
			return nil
		}
		return s.text(*record.Text)
	})
}

// eachRecord calls take for each line of r, which it must not keep, and counts those that can be no record.
func eachRecord(r io.Reader, skipped *Skipped, take func(line []byte) error) error {
	lines := bufio.NewReaderSize(r, maxRecord)
	for {
		line, err := lines.ReadSlice('\n')
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if err != nil && err != io.EOF { // the line breaks off
			return err
		}
		switch {
		case len(line) == 0:
		case tooLong:
			skipped.TooLong++
		case !utf8.Valid(line):
			skipped.NotText++
		case len(bytes.TrimSpace(line)) == 0:
			skipped.Empty++
		default:
			if err := take(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

type countingReader struct {
	r    io.Reader
	read func(int64)
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.read(int64(n))
	return n, err
}

// hashes is a set of ranks, which are as good as random. It takes as much memory as a set of maxHashes, and when it is full no more is added: then a
// duplicate of something new goes unnoticed.
type hashes struct {
	slots []uint64 // a power of two of them, 0 where unused
	n     int
}

// maxHashes are 64 MiB of them at a load of three quarters.
const maxHashes = 3 << 21

// add reports whether h was not known.
func (s *hashes) add(h uint64) bool {
	h |= 1 // never 0
	if s.n >= len(s.slots)/4*3 && len(s.slots) < maxHashes/3*4 {
		old := s.slots
		s.slots, s.n = make([]uint64, max(1<<10, 2*len(old))), 0
		for _, o := range old {
			if o != 0 {
				s.add(o)
			}
		}
	}
	mask := uint64(len(s.slots) - 1)
	for i := h >> 20 & mask; ; i = (i + 1) & mask {
		switch s.slots[i] {
		case h:
			return false
		case 0:
			if s.n < maxHashes {
				s.slots[i] = h
				s.n++
			}
			return true
		}
	}
}

// pieces cuts documents at blank lines, or failing that at line ends, into pieces of about pieceBytes.
func pieces(docs []string) []string {
	var out []string
	for _, d := range docs {
		b := []byte(d)
		for len(b) > pieceBytes {
			n := cut(b[:pieceBytes])
			if usable(string(b[:n])) {
				out = append(out, string(b[:n]))
			}
			b = b[n:]
		}
		if usable(string(b)) {
			out = append(out, string(b))
		}
	}
	return out
}

// onePiece returns a piece of d, chosen by its content.
func onePiece(d string) string {
	all := pieces([]string{d})
	return all[rank(d)/10%uint64(len(all))]
}

// cut returns where to end a piece of b: after its last blank line, line or rune, in that order of
// preference, but never before its middle, so that cutting comes to an end. b is at least
// eight bytes long; its last rune may be incomplete.
func cut(b []byte) int {
	for _, sep := range []string{"\n\n", "\r\n\r\n", "\n"} {
		if i := bytes.LastIndex(b, []byte(sep)); i > len(b)/2 {
			return i + len(sep)
		}
	}
	n := len(b)
	for n > len(b)/2 && !utf8.RuneStart(b[n-1]) {
		n--
	}
	return n - 1
}
