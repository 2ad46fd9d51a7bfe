package train

import (
	"context"
	"strings"
)

// Shared reads a source whole, whatever its limit, and returns how many of its documents are among others, but for spaces around
// them: text that is to be public and is private too. report, which may be nil, is told how many bytes of the files have been read.
func Shared(ctx context.Context, s Source, others []string, report func(done, total int64)) (n int, err error) {
	known := make(map[uint64]bool)
	of := func(text string) uint64 { return rank(strings.TrimSpace(text)) }
	for _, text := range others {
		for len(text) > maxRecord { // as [stream.whole] cuts it
			n := cut([]byte(text[:maxRecord]))
			known[of(text[:n])], text = true, text[n:]
		}
		known[of(text)] = true
	}
	files, err := s.files()
	if err != nil {
		return 0, err
	}
	all := &stream{flows: true, read: progress(files, report), take: func(d document) error {
		if known[of(d.text)] {
			n++
		}
		return ctx.Err()
	}}
	for _, f := range files {
		if err := all.file(ctx, f.path); err != nil {
			return 0, err
		}
	}
	return n, nil
}
