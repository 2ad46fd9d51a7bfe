package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/sync/errgroup"
)

// fetchStreams is how many requests of maxBatch chunks are under way to each holder.
const fetchStreams = 4

// Holders asks every connected member whether it would serve id and returns the names of those that say so,
// sorted.
func (h *Host) Holders(ctx context.Context, id cid.Cid) ([]string, error) {
	if err := checkBlobCID(id); err != nil {
		return nil, err
	}
	var names []string
	for m := range h.holders(ctx, id) {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names, ctx.Err()
}

// holders asks every connected member for id and returns the size that each of those names who has it.
func (h *Host) holders(ctx context.Context, id cid.Cid) map[*member]int64 {
	var mu sync.Mutex
	found := make(map[*member]int64)
	var g errgroup.Group
	g.SetLimit(maxParallelMembers)
	for _, m := range h.connected() {
		g.Go(func() error {
			err := h.ask(ctx, m, opHave, id, func(size int64, _ io.Reader) error {
				mu.Lock()
				defer mu.Unlock()
				found[m] = size
				return nil
			})
			if err != nil && !errors.Is(err, ErrMissing) {
				h.log.Debug("member did not say whether it holds a blob", "member", m.Name, "blob", id, "error", err)
			}
			return nil
		})
	}
	g.Wait()
	return found
}

// Fetch brings the blob id of size bytes into the store, from every connected member that serves it at once.
// It verifies the list of chunks before it asks for any, and each chunk before it keeps it. A member that sends a
// wrong one is asked no further, and is named in the log, and in the error if the fetch fails in the end. A fetch that fails or
// is killed leaves its verified chunks for the next one. A second Fetch of the same blob waits for the first.
//
// progress, which may be nil, is told the bytes that are in place, from one goroutine at a time. Callers check
// size against their quota first: nothing larger is ever received. The error wraps ErrNoHolder, ErrDeleted or
// ErrSize, among others.
func (h *Host) Fetch(ctx context.Context, id cid.Cid, size int64, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := h.fetch(ctx, id, size, progress); err != nil {
		return fmt.Errorf("fetch %s: %w", id, err)
	}
	return nil
}

func (h *Host) fetch(ctx context.Context, id cid.Cid, size int64, progress func(done, total int64)) error {
	if err := checkBlobCID(id); err != nil {
		return err
	}
	if size < 0 || size > maxTreeSize || (size > chunkSize) != (id.Type() == cid.DagProtobuf) {
		return fmt.Errorf("%w: no blob of %d bytes has this CID", ErrSize, size)
	}
	ctx, release, err := h.blobs.claim(ctx, id)
	defer release()
	if err != nil {
		return err
	}
	if held, err := h.blobs.stat(id); err == nil {
		if held != size {
			return fmt.Errorf("%w: it has %d bytes, not %d", ErrSize, held, size)
		}
		progress(size, size)
		return nil
	}
	f := &fetch{host: h, id: id, progress: progress}
	for m, held := range h.holders(ctx, id) {
		if held != size {
			f.blame(m, fmt.Errorf("%w: it has %d bytes, not %d", ErrSize, held, size))
			continue
		}
		f.holders = append(f.holders, m)
	}
	leaves, err := h.blobs.leaves(id, size)
	if err != nil {
		leaves, err = f.askLeaves(ctx, size)
	}
	if err != nil {
		return err
	}
	if f.part, err = h.blobs.openPartial(ctx, id, size, leaves); err != nil {
		return err
	}
	defer f.part.file.Close()
	if err := f.run(ctx); err != nil {
		return err
	}
	return f.part.commit()
}

// A fetch is one blob on its way into the store.
type fetch struct {
	host     *Host
	id       cid.Cid
	part     *partial
	progress func(done, total int64)
	holders  []*member // not blamed so far
	faults   []error   // why holders were given up

	mu    sync.Mutex
	queue []int // guarded by mu: chunks that nobody has been asked for, ascending
	done  int64 // guarded by mu: bytes in place
}

// blame gives a holder up. Not to hold the blob any longer is no fault.
func (f *fetch) blame(m *member, err error) {
	f.faults = append(f.faults, &MemberError{m.Name, err})
	f.holders = slices.DeleteFunc(f.holders, func(o *member) bool { return o == m })
	if !errors.Is(err, ErrMissing) {
		f.host.log.Warn("blob holder given up", "member", m.Name, "blob", f.id, "error", err)
	}
}

// noHolder is the error when no holder is left.
func (f *fetch) noHolder() error {
	err := ErrNoHolder
	for _, fault := range f.faults {
		err = fmt.Errorf("%w; %w", err, fault)
	}
	return err
}

// askLeaves gets the chunk list from the first holder that has the right one, and stores it.
func (f *fetch) askLeaves(ctx context.Context, size int64) ([]digest, error) {
	for _, m := range slices.Clone(f.holders) {
		var leaves []digest
		err := f.host.ask(ctx, m, opLeaves, f.id, func(said int64, r io.Reader) (err error) {
			if said != size {
				return fmt.Errorf("%w: it has %d bytes, not %d", ErrSize, said, size)
			}
			if leaves, err = readLeaves(r, size); err == nil {
				_, err = checkLeaves(f.id, size, leaves)
			}
			return err
		})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			return leaves, f.host.blobs.putLeaves(f.id, leaves)
		}
		f.blame(m, err)
	}
	return nil, f.noHolder()
}

// run fetches until every chunk is in place. A round ends when no chunk is left to ask for; what a holder failed
// to deliver is for the next round, without that holder.
func (f *fetch) run(ctx context.Context) error {
	for i, have := range f.part.have {
		if have {
			f.done += int64(chunkLen(f.part.size, int64(i)))
		} else {
			f.queue = append(f.queue, i)
		}
	}
	f.progress(f.done, f.part.size)
	for len(f.queue) > 0 {
		if len(f.holders) == 0 {
			return f.noHolder()
		}
		round := slices.Clone(f.holders)
		errs := make([]error, len(round))
		var wg sync.WaitGroup
		for i, m := range round {
			wg.Go(func() { errs[i] = f.from(ctx, m) })
		}
		wg.Wait()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i, err := range errs {
			var disk *storeError
			if errors.As(err, &disk) {
				return disk
			}
			if err != nil {
				f.blame(round[i], err)
			}
		}
	}
	return nil
}

// from fetches chunks from one holder until none is left to ask for or the holder fails.
func (f *fetch) from(ctx context.Context, m *member) error {
	g, ctx := errgroup.WithContext(ctx)
	for range fetchStreams {
		first, count := f.take()
		if count == 0 {
			break
		}
		g.Go(func() error {
			s, closeStream, err := f.host.openBlobs(ctx, m)
			if err != nil {
				f.giveBack(first, count)
				return err
			}
			defer closeStream()
			for count > 0 {
				got, err := f.batch(s, first, count)
				if err != nil {
					f.giveBack(first+got, count-got)
					return err
				}
				first, count = f.take()
			}
			return nil
		})
	}
	return g.Wait()
}

// batch fetches count chunks and returns how many of them, from the first on, are in place.
func (f *fetch) batch(s network.Stream, first, count int) (got int, err error) {
	s.SetWriteDeadline(time.Now().Add(answerTimeout))
	if _, err := s.Write(request{opChunks, f.id, uint32(first), uint32(count)}.encode()); err != nil {
		return 0, err
	}
	buf := chunkBuffers.Get().(*[1 + chunkSize]byte)
	defer chunkBuffers.Put(buf)
	for got < count {
		i := first + got
		s.SetReadDeadline(time.Now().Add(chunkTimeout))
		if err := readStatus(s); err != nil {
			return got, err
		}
		chunk := buf[:chunkLen(f.part.size, int64(i))]
		if _, err := io.ReadFull(s, chunk); err != nil {
			return got, err
		}
		if err := f.part.write(i, chunk); err != nil {
			return got, err
		}
		got++
		f.mu.Lock()
		f.done += int64(len(chunk))
		f.progress(f.done, f.part.size)
		f.mu.Unlock()
	}
	return got, nil
}

// take removes up to maxBatch neighbouring chunks from the front of the queue.
func (f *fetch) take() (first, count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for count < min(maxBatch, len(f.queue)) && f.queue[count] == f.queue[0]+count {
		count++
	}
	if count > 0 {
		first, f.queue = f.queue[0], f.queue[count:]
	}
	return first, count
}

// giveBack returns chunks to the queue.
func (f *fetch) giveBack(first, count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range count {
		f.queue = append(f.queue, first+i)
	}
	slices.Sort(f.queue)
}

// FetchDir brings the directory id and its files into the store, as Fetch does, and lays them out as the folder
// dest, which must not exist. The folder appears with all its files or not at all. Where the file system can, the
// files are hard links into the store, read-only like the blobs they are. Directories of over maxSize bytes are
// refused before any file is asked for. progress, which may be nil, counts the bytes of all files.
func (h *Host) FetchDir(ctx context.Context, id cid.Cid, maxSize int64, dest string, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := h.fetchDir(ctx, id, maxSize, dest, progress); err != nil {
		return fmt.Errorf("fetch directory %s: %w", id, err)
	}
	return nil
}

func (h *Host) fetchDir(ctx context.Context, id cid.Cid, maxSize int64, dest string, progress func(done, total int64)) error {
	if err := checkBlobCID(id); err != nil {
		return err
	}
	if _, err := os.Lstat(dest); err == nil {
		return fmt.Errorf("%s: %w", dest, fs.ErrExist)
	}
	ctx, release, err := h.blobs.claim(ctx, id)
	defer release()
	if err != nil {
		return err
	}
	block, err := h.dirBlock(ctx, id)
	if err != nil {
		return err
	}
	files, err := parseDir(block)
	if err != nil {
		return err
	}
	var total, done int64
	for _, f := range files {
		total += f.size
	}
	if total > maxSize {
		return fmt.Errorf("files of %d bytes, %d are allowed: %w", total, maxSize, ErrTooLarge)
	}
	for _, f := range files {
		err := h.Fetch(ctx, f.id, f.size, func(n, _ int64) { progress(done+n, total) })
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		done += f.size
	}
	if err := h.blobs.putBlock(id.String()+dirExt, block); err != nil {
		return err
	}
	return h.blobs.layOut(files, dest)
}

// dirBlock returns the block of a directory, from the store or from a connected member.
func (h *Host) dirBlock(ctx context.Context, id cid.Cid) ([]byte, error) {
	if block, err := h.blobs.readDir(id); err == nil {
		return block, nil
	}
	f := &fetch{host: h, id: id}
	for _, m := range h.connected() {
		var block []byte
		err := h.ask(ctx, m, opDir, id, func(size int64, r io.Reader) (err error) {
			block, err = readDirBlock(r, id, size)
			return err
		})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			return block, nil
		}
		f.blame(m, err)
	}
	return nil, f.noHolder()
}

// layOut makes a folder of blobs.
func (s *BlobStore) layOut(files []link, dest string) error {
	temp := filepath.Clean(dest) + partialExt
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(temp) // nothing once the folder has its name
	for _, f := range files {
		name := filepath.Join(temp, f.name)
		if os.Link(s.Path(f.id), name) == nil {
			continue
		}
		if err := copyFile(name, s.Path(f.id)); err != nil {
			return err
		}
	}
	if err := syncDir(temp); err != nil {
		return err
	}
	if err := os.Rename(temp, dest); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dest)))
}

// copyFile makes a durable, read-only copy.
func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	return dst.Close()
}
