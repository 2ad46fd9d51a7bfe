package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"chorus/durable"
)

// A journal keeps what the finished pieces of a long work gave, so that the same command goes on where it was. It is for one goroutine.
type journal struct {
	path   string
	saved  time.Time
	record journalRecord
}

type journalRecord struct {
	Work   string                     `json:"work"` // a digest of all that the pieces follow from
	Pieces map[string]json.RawMessage `json:"pieces"`
}

// openJournal opens the journal at path of the work that is described by what its pieces follow from. That of other work is begun anew.
func openJournal(path string, work any) (*journal, error) {
	described, err := json.Marshal(work)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(described)
	fresh := journalRecord{Work: hex.EncodeToString(sum[:]), Pieces: make(map[string]json.RawMessage)}
	j := &journal{path: path, saved: time.Now()}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	case err == nil:
		if err = json.Unmarshal(b, &j.record); err != nil {
			err = withHint(fmt.Errorf("%s: %w", path, err), "remove that file to begin anew")
		}
	}
	if j.record.Work != fresh.Work || j.record.Pieces == nil {
		j.record = fresh
	}
	return j, err
}

// get stores in v what a piece gave, and reports whether it was done before.
func (j *journal) get(piece string, v any) bool {
	b, ok := j.record.Pieces[piece]
	return ok && json.Unmarshal(b, v) == nil
}

// journalEvery is how much of a long work an accident may cost.
const journalEvery = 2 * time.Second

// put notes what a piece gave.
func (j *journal) put(piece string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	j.record.Pieces[piece] = b
	if time.Since(j.saved) < journalEvery {
		return nil
	}
	return j.save()
}

func (j *journal) save() error {
	b, err := json.Marshal(j.record)
	if err != nil {
		return err
	}
	j.saved = time.Now()
	return durable.WriteFile(j.path, durable.Bytes(b))
}

// end keeps the journal if the work ended with an error, such as an interruption, and removes it if all is done.
func (j *journal) end(work error) error {
	if work != nil {
		return errors.Join(work, j.save())
	}
	if err := os.Remove(j.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
