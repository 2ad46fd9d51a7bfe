package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"
)

// Beside a blob, which is a file named by its CID, the folder of a store has these files of the same name.
const (
	leavesExt  = ".leaves"  // the digests of the blob's chunks, in order; durable before the blob is
	dirExt     = ".dir"     // instead of a blob: the block of a directory
	partialExt = ".partial" // a fetch under way or interrupted
	tempPrefix = "put-"     // a file being written; removed when the store is opened
)

// A BlobStore is a folder of blobs, each an ordinary read-only file named by its CID. A blob appears whole and
// durable or not at all. Methods may be called concurrently; only one process may use a folder.
type BlobStore struct {
	dir string

	mu      sync.Mutex
	fetches map[cid.Cid]*fetching // guarded by mu
}

// A fetching is the right to write the partial file of one blob.
type fetching struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the right is given up
}

// NewBlobStore opens the store in the folder dir and creates the folder if it is missing.
func NewBlobStore(dir string) (*BlobStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	return &BlobStore{dir: dir, fetches: make(map[cid.Cid]*fetching)}, nil
}

// Path returns the name of the file that holds the blob id, whether or not it exists.
func (s *BlobStore) Path(id cid.Cid) string { return filepath.Join(s.dir, id.String()) }

// Has reports whether the store holds id, as a blob or as a directory. Of a directory it says nothing about the
// files named in it.
func (s *BlobStore) Has(id cid.Cid) bool {
	_, err := s.stat(id)
	return err == nil
}

// stat returns the size of a blob or of the block of a directory, or ErrMissing.
func (s *BlobStore) stat(id cid.Cid) (int64, error) {
	if err := checkBlobCID(id); err != nil {
		return 0, err
	}
	info, err := os.Stat(s.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(s.Path(id) + dirExt)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s: %w", id, ErrMissing)
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// List returns the CIDs of all blobs and directories in the store, sorted by their text.
func (s *BlobStore) List() ([]cid.Cid, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []cid.Cid
	for _, e := range entries {
		id, err := cid.Decode(strings.TrimSuffix(e.Name(), dirExt))
		if err == nil && checkBlobCID(id) == nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b cid.Cid) int { return strings.Compare(a.String(), b.String()) })
	return ids, nil
}

// Put copies the file at path into the store and returns its CID and its size. The CID names the bytes that were
// copied, even if the file changes meanwhile. A blob that the store holds already is left as it is.
func (s *BlobStore) Put(ctx context.Context, path string) (cid.Cid, int64, error) {
	l, err := s.put(ctx, path)
	if err != nil {
		return cid.Undef, 0, fmt.Errorf("put %s: %w", path, err)
	}
	return l.id, l.size, nil
}

func (s *BlobStore) put(ctx context.Context, path string) (link, error) {
	src, err := os.Open(path)
	if err != nil {
		return link{}, err
	}
	defer src.Close()
	if info, err := src.Stat(); err != nil {
		return link{}, err
	} else if !info.Mode().IsRegular() {
		return link{}, errors.New("not a regular file")
	}
	var l link
	release := func() {}
	defer func() { release() }()
	err = s.create(func(f *os.File) (string, error) {
		size, leaves, err := hashChunks(ctxReader{ctx, src}, f)
		if err != nil {
			return "", err
		}
		l = rootOf(size, leaves)
		if _, release, err = s.claim(ctx, l.id); err != nil {
			return "", err
		}
		if _, err := os.Stat(s.Path(l.id)); err == nil {
			return "", nil
		}
		return l.id.String(), s.putLeaves(l.id, leaves)
	})
	return l, err
}

// PutDir copies the files of a folder into the store and returns the CID of the UnixFS directory of them, the one
// that `ipfs add -r` gives with the parameters of a blob. Like that command it passes over names that begin with
// a dot. Folders inside the folder, and names that are not portable, are refused.
func (s *BlobStore) PutDir(ctx context.Context, dir string) (cid.Cid, error) {
	id, err := s.putDir(ctx, dir)
	if err != nil {
		return cid.Undef, fmt.Errorf("put %s: %w", dir, err)
	}
	return id, nil
}

func (s *BlobStore) putDir(ctx context.Context, dir string) (cid.Cid, error) {
	block, id, err := hashDir(dir, func(path string) (link, error) { return s.put(ctx, path) })
	if err != nil {
		return cid.Undef, err
	}
	return id, s.putBlock(id.String()+dirExt, block)
}

// DirCID returns the CID that [BlobStore.PutDir] gives a folder, and stores nothing.
func DirCID(ctx context.Context, dir string) (cid.Cid, error) {
	_, id, err := hashDir(dir, func(path string) (link, error) {
		f, err := os.Open(path)
		if err != nil {
			return link{}, err
		}
		defer f.Close()
		size, leaves, err := hashChunks(ctxReader{ctx, f}, io.Discard)
		return rootOf(size, leaves), err
	})
	return id, err
}

// hashDir returns the block and the CID of the directory of dir's files, each of which file names.
func hashDir(dir string, file func(path string) (link, error)) ([]byte, cid.Cid, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, cid.Undef, err
	}
	var files []link
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := checkFileName(e.Name()); err != nil {
			return nil, cid.Undef, err
		}
		l, err := file(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, cid.Undef, fmt.Errorf("%s: %w", e.Name(), err)
		}
		l.name = e.Name()
		files = append(files, l)
	}
	return encodeDir(files)
}

// Delete removes a blob or a directory, and what an interrupted fetch left of it. It ends a fetch of id that is
// under way. From then on nothing of it is read from the store; of a transfer to a peer at most the chunk that
// is in memory still leaves. Deleting a directory keeps its files. Deleting what is not there is no error.
func (s *BlobStore) Delete(id cid.Cid) error {
	if err := checkBlobCID(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := s.fetches[id]; f != nil; f = s.fetches[id] {
		f.cancel(fmt.Errorf("%s: %w", id, ErrDeleted))
		s.mu.Unlock()
		<-f.done
		s.mu.Lock()
	}
	for _, ext := range []string{"", dirExt, partialExt, leavesExt} {
		if err := os.Remove(s.Path(id) + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(s.dir)
}

// claim waits for the right to fetch id. The context it returns ends when id is deleted; its cause is ErrDeleted.
// The caller must call release, once. Besides fetches, Put takes the right while it names a blob.
func (s *BlobStore) claim(ctx context.Context, id cid.Cid) (_ context.Context, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := s.fetches[id]; f != nil; f = s.fetches[id] {
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return ctx, func() {}, context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	f := &fetching{cancel, make(chan struct{})}
	s.fetches[id] = f
	return ctx, func() {
		s.mu.Lock()
		delete(s.fetches, id)
		s.mu.Unlock()
		cancel(nil)
		close(f.done)
	}, nil
}

// readChunk reads chunk i of a blob of size bytes. It opens the file anew, so that what was deleted is gone at once.
func (s *BlobStore) readChunk(id cid.Cid, size, i int64, buf []byte) ([]byte, error) {
	f, err := os.Open(s.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, ErrMissing)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf = buf[:chunkLen(size, i)]
	_, err = f.ReadAt(buf, i*chunkSize)
	return buf, err
}

// leaves returns the digests of the chunks of a blob of size bytes, whole or partial: those stored, for a blob of
// one chunk the one in its CID. It fails unless they rebuild id.
func (s *BlobStore) leaves(id cid.Cid, size int64) ([]digest, error) {
	if chunkCount(size) == 1 {
		return checkLeaves(id, size, []digest{digestOf(id)})
	}
	f, err := os.Open(s.Path(id) + leavesExt)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, ErrMissing)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	leaves, err := readLeaves(f, size)
	if err != nil {
		return nil, err
	}
	return checkLeaves(id, size, leaves)
}

func (s *BlobStore) putLeaves(id cid.Cid, leaves []digest) error {
	if len(leaves) == 1 {
		return nil
	}
	list := make([]byte, 0, len(leaves)*len(digest{}))
	for _, d := range leaves {
		list = append(list, d[:]...)
	}
	return s.putBlock(id.String()+leavesExt, list)
}

// readDir returns the block of the directory id, or ErrMissing.
func (s *BlobStore) readDir(id cid.Cid) ([]byte, error) {
	block, err := os.ReadFile(s.Path(id) + dirExt)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, ErrMissing)
	}
	return block, err
}

func (s *BlobStore) putBlock(name string, block []byte) error {
	return s.create(func(f *os.File) (string, error) {
		_, err := f.Write(block)
		return name, err
	})
}

// create makes a durable file in the store. fill writes it and returns its name, or "" to drop it.
func (s *BlobStore) create(fill func(*os.File) (name string, err error)) error {
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once the file has its name
	defer f.Close()
	name, err := fill(f)
	if err != nil || name == "" {
		return err
	}
	return s.settle(f, name)
}

// settle closes f, makes it durable, a blob also read-only, and gives it its name in the store.
func (s *BlobStore) settle(f *os.File, name string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if filepath.Ext(name) == "" {
		if err := os.Chmod(f.Name(), 0o444); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), filepath.Join(s.dir, name)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// A partial is a blob whose chunks arrive in any order. Its file is the whole of its state: what a kill or a
// power failure left there is hashed again and kept where it matches.
type partial struct {
	store  *BlobStore
	id     cid.Cid
	size   int64
	leaves []digest
	file   *os.File
	have   []bool // by chunk
}

// openPartial takes up the fetch of a blob whose leaves have been checked against id.
func (s *BlobStore) openPartial(ctx context.Context, id cid.Cid, size int64, leaves []digest) (*partial, error) {
	f, err := os.OpenFile(s.Path(id)+partialExt, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	p := &partial{s, id, size, leaves, f, make([]bool, len(leaves))}
	buf := make([]byte, chunkSize)
	for i := range leaves {
		chunk := buf[:chunkLen(size, int64(i))]
		if _, err := f.ReadAt(chunk, int64(i)*chunkSize); err == io.EOF {
			break
		} else if err != nil {
			f.Close()
			return nil, err
		}
		p.have[i] = sha256.Sum256(chunk) == leaves[i]
		if ctx.Err() != nil {
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
	return p, nil
}

// write verifies chunk i and puts it in its place. Different chunks may be written concurrently.
func (p *partial) write(i int, chunk []byte) error {
	if sha256.Sum256(chunk) != p.leaves[i] {
		return fmt.Errorf("chunk %d of %s: %w", i, p.id, ErrCorrupt)
	}
	if _, err := p.file.WriteAt(chunk, int64(i)*chunkSize); err != nil {
		return &storeError{err}
	}
	return nil
}

// commit turns the complete partial file into the blob.
func (p *partial) commit() error {
	if err := p.file.Truncate(p.size); err != nil {
		return err
	}
	return p.store.settle(p.file, p.id.String())
}

// A storeError is a failure of the local disk, for which no member is to blame.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// A ctxReader fails once its context has ended.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// syncDir makes the names in a folder durable. Windows has no such call and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
