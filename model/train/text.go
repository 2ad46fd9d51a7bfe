package train

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Corpus is one domain's text, as documents, parted by whole document.
type Corpus struct {
	Train, Heldout []string
	Skipped        int // files and records that held no usable text
}

// Limits of what is read as text.
const (
	maxRecord    = 1 << 20 // bytes of one JSON line or one document
	pieceBytes   = 4 << 10 // a source of few documents is cut into pieces about this long
	fewDocuments = 40
)

// ErrNoText is returned, wrapped, when nothing usable was found.
var ErrNoText = errors.New("no usable text")

// TextFiles are the kinds of file read from a folder when no others are named.
var TextFiles = []string{".txt", ".md", ".jsonl", ".jsonl.gz"}

// ReadCorpus reads paths, each a file or a folder searched for files whose names end in one of
// suffixes (nil means [TextFiles]). A .jsonl or .jsonl.gz file has one document a line, in a field
// "text"; any other file is one document. Files that are not UTF-8, empty ones and malformed
// records are counted and skipped. About one document in ten is held out, chosen by its content
// alone; of a long one a piece from somewhere in it is kept. Documents are in an order that depends
// on content too, and about limit bytes are kept for training and a tenth of that held out, so a
// larger source is sampled evenly.
func ReadCorpus(limit int64, suffixes []string, paths ...string) (*Corpus, error) {
	docs, skipped, err := readDocuments(suffixes, paths)
	if err != nil {
		return nil, err
	}
	c := &Corpus{Skipped: skipped}
	var train, held int64
	for _, d := range docs {
		n, heldOut := int64(len(d)), rank(d)%10 == 0
		switch {
		case heldOut && held < limit/10:
			d = onePiece(d)
			held += int64(len(d))
			c.Heldout = append(c.Heldout, d)
		case !heldOut && train+n <= limit:
			train += n
			c.Train = append(c.Train, d)
		}
	}
	if len(c.Train) == 0 || len(c.Heldout) == 0 {
		return nil, fmt.Errorf("%s: %w for training and for holding out (%d documents, %d skipped)", strings.Join(paths, ", "), ErrNoText, len(docs), skipped)
	}
	return c, nil
}

// ReadHeldout reads a file or folder as [ReadCorpus] does and holds all of it out: about limit bytes, sampled evenly.
func ReadHeldout(limit int64, path string) (*Corpus, error) {
	docs, skipped, err := readDocuments(nil, []string{path})
	if err != nil {
		return nil, err
	}
	c := &Corpus{Skipped: skipped}
	for _, d := range docs {
		if limit -= int64(len(d)); len(c.Heldout) == 0 || limit >= 0 {
			c.Heldout = append(c.Heldout, d)
		}
	}
	if len(c.Heldout) == 0 {
		return nil, fmt.Errorf("%s: %w (%d files or records skipped)", path, ErrNoText, skipped)
	}
	return c, nil
}

// readDocuments returns the documents in paths, each once, in an order that depends on their content alone.
func readDocuments(suffixes, paths []string) (docs []string, skipped int, err error) {
	if suffixes == nil {
		suffixes = TextFiles
	}
	seen := make(map[[32]byte]bool)
	take := func(text string) {
		sum := sha256.Sum256([]byte(text))
		if !usable(text) || seen[sum] {
			skipped++
			return
		}
		seen[sum] = true
		docs = append(docs, text)
	}
	for _, p := range paths {
		if err := walk(p, suffixes, take, &skipped); err != nil {
			return nil, 0, err
		}
	}
	if len(docs) < fewDocuments {
		docs = pieces(docs)
	}
	ranks := make(map[string]uint64, len(docs))
	for _, d := range docs {
		ranks[d] = rank(d)
	}
	return slices.SortedFunc(maps.Keys(ranks), func(a, b string) int {
		return cmp.Or(cmp.Compare(ranks[a], ranks[b]), strings.Compare(a, b))
	}), skipped, nil
}

func rank(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.LittleEndian.Uint64(sum[:])
}

func usable(text string) bool {
	return strings.TrimSpace(text) != "" && utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}

func walk(root string, suffixes []string, take func(string), skipped *int) error {
	if info, err := os.Stat(root); err != nil {
		return err
	} else if info.IsDir() { // a link to a folder is not walked as it stands
		if root, err = filepath.EvalSymlinks(root); err != nil {
			return err
		}
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() || !d.Type().IsRegular() && path != root:
			return nil
		case path != root && !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(path, s) }):
			return nil
		}
		if strings.HasSuffix(path, ".jsonl") || strings.HasSuffix(path, ".jsonl.gz") {
			return readFile(path, take, skipped)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !utf8.Valid(b) {
			*skipped++
			return nil
		}
		for len(b) > maxRecord { // one giant file is several documents
			n := cut(b[:maxRecord])
			take(string(b[:n]))
			b = b[n:]
		}
		take(string(b))
		return nil
	})
}

func readFile(path string, take func(string), skipped *int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := readRecords(r, take, skipped); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readRecords takes the text of each line of r, a JSON object.
func readRecords(r io.Reader, take func(string), skipped *int) error {
	lines := bufio.NewReaderSize(r, maxRecord)
	for {
		line, err := lines.ReadSlice('\n')
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		var record struct {
			Text string `json:"text"`
		}
		switch {
		case tooLong, !utf8.Valid(line), len(line) > 0 && json.Unmarshal(line, &record) != nil:
			*skipped++
		case len(line) > 0:
			take(record.Text)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
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
// preference, but never before its middle, so that cutting comes to an end. b is UTF-8 and at least
// eight bytes long; its last rune may be incomplete.
func cut(b []byte) int {
	for _, sep := range []string{"\n\n", "\r\n\r\n", "\n"} {
		if i := strings.LastIndex(string(b), sep); i > len(b)/2 {
			return i + len(sep)
		}
	}
	n := len(b)
	for n > len(b)/2 && !utf8.RuneStart(b[n-1]) {
		n--
	}
	return n - 1
}
