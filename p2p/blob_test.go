package p2p

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
)

func newStore(t testing.TB) *BlobStore {
	t.Helper()
	s, err := NewBlobStore(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// putPattern puts a blob of size bytes.
func putPattern(t testing.TB, s *BlobStore, size int64) cid.Cid {
	t.Helper()
	id, n, err := s.Put(t.Context(), writePattern(t, filepath.Join(t.TempDir(), "blob"), size))
	if err != nil || n != size {
		t.Fatalf("put of %d bytes: %d, %v", size, n, err)
	}
	return id
}

// checkPattern fails unless the store holds the blob, byte for byte.
func checkPattern(t *testing.T, s *BlobStore, id cid.Cid, size int64) {
	t.Helper()
	got, err := os.ReadFile(s.Path(id))
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(&pattern{n: size})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("blob of %d bytes differs from what was put, of %d", len(got), len(want))
	}
}

// entries returns the names in the folder of a store.
func entries(t *testing.T, s *BlobStore) []string {
	t.Helper()
	list, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestPutKeepsABlobUntilDelete(t *testing.T) {
	for _, size := range []int64{0, 1, chunkSize, 3*chunkSize + 1} {
		s := newStore(t)
		id := putPattern(t, s, size)
		checkPattern(t, s, id, size)
		if again := putPattern(t, s, size); again != id {
			t.Errorf("second put: got %s, want %s", again, id)
		}
		reopened, err := NewBlobStore(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		list, err := reopened.List()
		if err != nil || !slices.Equal(list, []cid.Cid{id}) || !reopened.Has(id) {
			t.Errorf("reopened store lists %v, %v, want %s", list, err, id)
		}
		if err := s.Delete(id); err != nil {
			t.Fatal(err)
		}
		if names := entries(t, s); s.Has(id) || len(names) > 0 {
			t.Errorf("after delete the store has %q", names)
		}
		if err := s.Delete(id); err != nil {
			t.Errorf("second delete: %v", err)
		}
	}
}

func TestBlobsAreReadOnly(t *testing.T) {
	s := newStore(t)
	info, err := os.Stat(s.Path(putPattern(t, s, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o222 != 0 {
		t.Errorf("blob has mode %v", info.Mode())
	}
}

func TestFailedPutLeavesNothing(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Put(ctx, writePattern(t, filepath.Join(t.TempDir(), "blob"), 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if _, _, err := s.Put(t.Context(), t.TempDir()); err == nil {
		t.Error("a folder was put as a blob")
	}
	if names := entries(t, s); len(names) > 0 {
		t.Errorf("left over: %q", names)
	}
}

func TestOpeningAStoreRemovesWhatAKillLeft(t *testing.T) {
	s := newStore(t)
	id := putPattern(t, s, 1)
	writePattern(t, filepath.Join(s.dir, tempPrefix+"123"), 5)
	if _, err := NewBlobStore(s.dir); err != nil {
		t.Fatal(err)
	}
	if names := entries(t, s); !slices.Equal(names, []string{id.String()}) {
		t.Errorf("the store has %q", names)
	}
}

func TestPutDirRefusesWhatItCannotName(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	writePattern(t, filepath.Join(dir, "a b"), 1)
	if _, err := s.PutDir(t.Context(), dir); !errors.Is(err, ErrMalformed) {
		t.Errorf("name with a space: got %v, want ErrMalformed", err)
	}
	if err := os.Rename(filepath.Join(dir, "a b"), filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutDir(t.Context(), dir); err == nil {
		t.Error("a folder inside the folder was accepted")
	}
}

func TestStoreRefusesCIDsOfOtherThings(t *testing.T) {
	s := newStore(t)
	for _, text := range []string{
		"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn",                // version 0
		"baguqeera6mfu3g6n722vx7dbitpnbiyqnwah4ddy4b5c3rwzxc5pntqcupta", // JSON
	} {
		id, err := cid.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(id); !errors.Is(err, ErrUnsupportedCID) || s.Has(id) {
			t.Errorf("%s: got %v, want ErrUnsupportedCID", text, err)
		}
	}
	if err := s.Delete(cid.Undef); !errors.Is(err, ErrUnsupportedCID) {
		t.Errorf("undefined CID: got %v, want ErrUnsupportedCID", err)
	}
}
