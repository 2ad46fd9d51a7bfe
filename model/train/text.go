package train

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Corpus is one domain's text, as documents, parted by whole document.
type Corpus struct {
	Train, Heldout []string
	Skipped        int // files and records that held no usable text
}

// ErrNoText is returned, wrapped, when nothing usable was found.
var ErrNoText = errors.New("no usable text")

// ReadCorpus reads the text in paths, see [Source], into memory. Files that are not UTF-8, empty ones, malformed
// records and what follows where a .gz file breaks off are counted and skipped. About one document in ten is held out, chosen by its content
// alone; of a long one a piece from somewhere in it is kept. Documents are in an order that depends
// on content too, and about limit bytes are kept for training and a tenth of that held out, so a
// larger source is sampled evenly. It takes the memory of some times limit bytes, however large the source is.
//
// For training on all of a source see [Prepare].
func ReadCorpus(limit int64, suffixes []string, paths ...string) (*Corpus, error) {
	training, held := sample{limit: 2 * limit}, sample{limit: limit / 10}
	found, skipped, err := readAll(Source{Paths: paths, Suffixes: suffixes}, func(d document) {
		if d.heldout() {
			held.add(document{onePiece(d.text), d.rank})
		} else {
			training.add(d)
		}
	})
	if err != nil {
		return nil, err
	}
	c := &Corpus{Skipped: skipped.Total()}
	for _, d := range training.within(limit) {
		c.Train = append(c.Train, d.text)
	}
	if held.limit > 0 {
		c.Heldout = held.texts()
	}
	if len(c.Train) == 0 || len(c.Heldout) == 0 {
		return nil, fmt.Errorf("%s: %w for training and for holding out (%d documents; skipped: %v)", strings.Join(paths, ", "), ErrNoText, found, skipped)
	}
	return c, nil
}

// ReadHeldout reads a file or folder as [ReadCorpus] does and holds all of it out: about limit bytes, sampled evenly.
func ReadHeldout(limit int64, path string) (*Corpus, error) {
	held := sample{limit: limit}
	_, skipped, err := readAll(Source{Paths: []string{path}}, held.add)
	if err != nil {
		return nil, err
	}
	c := &Corpus{Skipped: skipped.Total()}
	for _, text := range held.texts() {
		if limit -= int64(len(text)); len(c.Heldout) == 0 || limit >= 0 {
			c.Heldout = append(c.Heldout, text)
		}
	}
	if len(c.Heldout) == 0 {
		return nil, fmt.Errorf("%s: %w (skipped: %v)", path, ErrNoText, skipped)
	}
	return c, nil
}

func readAll(s Source, take func(document)) (found int, skipped Skipped, err error) {
	files, err := s.files()
	if err != nil {
		return 0, skipped, err
	}
	skipped, err = each(context.Background(), files, func(d document) error {
		found++
		take(d)
		return nil
	}, nil)
	return found, skipped, err
}

// A sample keeps, of the documents that it is given, those that come first by rank: as few as hold limit bytes, or all. What it
// keeps depends on no order.
type sample struct {
	limit, bytes int64
	documents    lastFirst
}

func (s *sample) add(d document) {
	heap.Push(&s.documents, d)
	s.bytes += int64(len(d.text))
	for len(s.documents) > 1 && s.bytes-int64(len(s.documents[0].text)) >= s.limit {
		s.bytes -= int64(len(heap.Pop(&s.documents).(document).text))
	}
}

// texts returns what was kept, first by rank first.
func (s *sample) texts() []string {
	slices.SortFunc(s.documents, document.compare)
	texts := make([]string, len(s.documents))
	for i, d := range s.documents {
		texts[i] = d.text
	}
	return texts
}

// within returns of what was kept, first by rank first, what fits into limit bytes. A sample of twice as many fills them.
func (s *sample) within(limit int64) (within []document) {
	slices.SortFunc(s.documents, document.compare)
	for _, d := range s.documents {
		if n := int64(len(d.text)); n <= limit {
			limit -= n
			within = append(within, d)
		}
	}
	return within
}

func (d document) compare(e document) int {
	return cmp.Or(cmp.Compare(d.rank, e.rank), strings.Compare(d.text, e.text))
}

// lastFirst is a heap of documents, the last by rank on top.
type lastFirst []document

func (h lastFirst) Len() int           { return len(h) }
func (h lastFirst) Less(i, j int) bool { return h[i].compare(h[j]) > 0 }
func (h lastFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lastFirst) Push(x any)        { *h = append(*h, x.(document)) }
func (h *lastFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
