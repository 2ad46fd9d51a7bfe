package train

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"chorus/durable"
	"chorus/model/tokenizer"
)

// A Prepared is a text made ready to train on: all its tokens in a file, and documents that are not among them. Close it, and
// remove its folder when the training has been saved: what lies there is the text.
type Prepared struct {
	Train          *Tokens
	Valid, Heldout []string // documents, sampled evenly: to choose by, and to report on
	Counts         Counts

	file *os.File
}

// Counts is what [Prepare] found in a source.
type Counts struct {
	Documents int     `json:"documents"` // that are trained on, with so many
	Bytes     int64   `json:"bytes"`
	Tokens    int64   `json:"tokens"`
	Valid     int     `json:"valid_documents"` // of which a sample is kept
	Heldout   int     `json:"heldout_documents"`
	Skipped   Skipped `json:"skipped"`
}

// Of documents to choose by and to report on, about so many bytes are kept.
const keptBytes = 400 << 10

// The files of a prepared folder.
const (
	tokensFile   = "tokens"
	preparedFile = "text.json"
)

// prepared is the content of preparedFile.
type prepared struct {
	Key     string   `json:"key"`
	Sum     string   `json:"sum"` // of the tokens
	Counts  Counts   `json:"counts"`
	Valid   []string `json:"valid"`
	Heldout []string `json:"heldout"`
}

// Prepare reads a source once, whatever its size, and leaves in the folder dir what training on it needs: the tokens of its
// documents, each ended by eos, in the order in which they are found. As by [ReadCorpus], one document in ten is held out, and of a long one a
// piece is kept; one in twenty serves to choose when to stop, and is not trained on either. Documents that cannot be used and those that
// came before are skipped and counted. No more than some ten megabytes of text, and s.Limit, are in memory at any time.
//
// A folder that holds what the same files, by path, size and time, gave with the same tokenizer is used as it is, and any other that
// is there is made anew. report, which may be nil, is told how many bytes of the files have been read.
func Prepare(ctx context.Context, dir string, s Source, tok *tokenizer.Tokenizer, eos int, report func(done, total int64)) (*Prepared, error) {
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	sum := tok.Sum()
	key := fmt.Sprintf("%s %x %d", s.key(files), sum, eos)
	if p, err := openPrepared(dir, key); err == nil {
		return p, nil
	} else if !errors.Is(err, errStale) {
		return nil, err
	}
	if err := removePrepared(dir); err != nil {
		return nil, err
	}
	err = durable.Folder(dir, func(part string) error {
		p := &prepared{Key: key}
		if err := p.encode(ctx, filepath.Join(part, tokensFile), s, files, tok, eos, report); err != nil {
			return err
		}
		if p.Counts.Documents == 0 || len(p.Heldout) == 0 {
			return fmt.Errorf("%s: %w for training and for holding out (%d documents for the one and %d for the other; skipped: %v)",
				strings.Join(s.Paths, ", "), ErrNoText, p.Counts.Documents, p.Counts.Heldout, p.Counts.Skipped)
		}
		return durable.WriteFile(filepath.Join(part, preparedFile), func(w io.Writer) error { return json.NewEncoder(w).Encode(p) })
	})
	if err != nil {
		return nil, err
	}
	return openPrepared(dir, key)
}

// errStale says that a folder is not there or holds another text.
var errStale = errors.New("another text")

func openPrepared(dir, key string) (*Prepared, error) {
	b, err := os.ReadFile(filepath.Join(dir, preparedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errStale
	} else if err != nil {
		return nil, err
	}
	var p prepared
	if err := json.Unmarshal(b, &p); err != nil || p.Key != key {
		return nil, errStale
	}
	f, err := os.Open(filepath.Join(dir, tokensFile))
	if err != nil {
		return nil, errStale
	}
	if info, err := f.Stat(); err != nil || info.Size() != p.Counts.Tokens*tokenBytes {
		return nil, errors.Join(errStale, f.Close())
	}
	return &Prepared{
		Train: &Tokens{Bytes: p.Counts.Bytes, file: f, n: int(p.Counts.Tokens), sum: p.Sum},
		Valid: p.Valid, Heldout: p.Heldout, Counts: p.Counts, file: f,
	}, nil
}

// removePrepared removes dir, and what an attempt to make it left that was killed.
func removePrepared(dir string) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".*.tmp"))
	for _, path := range append(left, dir) {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// Close closes the file of tokens, after which p.Train cannot be read.
func (p *Prepared) Close() error { return p.file.Close() }

// Key changes when a file of s does, as [Prepare] tells it.
func (s Source) Key() (string, error) {
	files, err := s.files()
	return s.key(files), err
}

// key changes when a file does, as far as that can be known without reading it, and when the rules do by which files are read.
func (s Source) key(files []sourceFile) string {
	h := sha256.New()
	fmt.Fprintln(h, "documents in order, held out by 10, to choose by 20", maxRecord, pieceBytes, fewDocuments, keptBytes, s.Limit)
	for _, d := range s.Also {
		fmt.Fprintf(h, "%q\n", d)
	}
	for _, f := range files {
		path, err := filepath.Abs(f.path)
		if err != nil {
			path = f.path
		}
		fmt.Fprintf(h, "%q %d %d\n", path, f.size, f.modified)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// encode writes the tokens of files to path and fills p in.
func (p *prepared) encode(ctx context.Context, path string, s Source, files []sourceFile, tok *tokenizer.Tokenizer, eos int, report func(done, total int64)) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // a second time does no harm
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	held, valid := sample{limit: keptBytes}, sample{limit: keptBytes}
	var waiting []string
	size := 0
	flush := func() error {
		var b []byte
		for i, ids := range encodeAll(waiting, tok) {
			b = b[:0]
			for _, id := range ids {
				b = appendTokens(b, int32(id))
			}
			if _, err := out.Write(appendTokens(b, int32(eos))); err != nil {
				return err
			}
			p.Counts.Documents++
			p.Counts.Bytes += int64(len(waiting[i]))
			p.Counts.Tokens += int64(len(ids)) + 1
		}
		waiting, size = waiting[:0], 0
		return nil
	}
	take := func(d document) error {
		switch {
		case d.heldout():
			p.Counts.Heldout++
			held.add(document{onePiece(d.text), d.rank})
			return nil
		case d.valid():
			p.Counts.Valid++
			valid.add(document{onePiece(d.text), d.rank})
			return nil
		}
		waiting = append(waiting, d.text)
		if size += len(d.text); size < 2*maxRecord {
			return nil
		}
		return flush()
	}
	if p.Counts.Skipped, err = s.each(ctx, files, take, progress(files, report)); err != nil {
		return err
	}
	waiting = append(waiting, s.Also...)
	if err := errors.Join(flush(), out.Flush(), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.Sum, p.Valid, p.Heldout = hex.EncodeToString(sum.Sum(nil)), valid.texts(), held.texts()
	return nil
}

// progress returns what counts reads of files for report, or nil.
func progress(files []sourceFile, report func(done, total int64)) func(int64) {
	if report == nil {
		return nil
	}
	var done, total int64
	for _, f := range files {
		total += f.size
	}
	return func(n int64) {
		done += n
		report(done, total)
	}
}

// encodeAll encodes texts on all processors.
func encodeAll(texts []string, tok *tokenizer.Tokenizer) [][]int {
	ids := make([][]int, len(texts))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(texts), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(texts)); i = next.Add(1) - 1 {
				ids[i] = tok.Encode(texts[i])
			}
		})
	}
	wg.Wait()
	return ids
}

// SampleTraining returns, of the documents of a source that [Prepare] trains on, pieces that hold about limit bytes, sampled evenly: what a
// tokenizer learns from.
func SampleTraining(ctx context.Context, s Source, limit int64, report func(done, total int64)) ([]string, error) {
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	training := sample{limit: limit}
	skipped, err := s.each(ctx, files, func(d document) error {
		if !d.heldout() && !d.valid() {
			for _, piece := range pieces([]string{d.text}) {
				training.add(ranked(piece))
			}
		}
		return nil
	}, progress(files, report))
	if err != nil {
		return nil, err
	}
	if len(training.documents) == 0 {
		return nil, fmt.Errorf("%s: %w (skipped: %v)", strings.Join(s.Paths, ", "), ErrNoText, skipped)
	}
	return training.texts(), nil
}
