package p2p

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// Blobs are named as `ipfs add --cid-version 1 --raw-leaves --chunker=size-1048576 --max-file-links 174` names
// them: the root of a balanced tree whose leaves are the file's chunks and whose nodes are UnixFS files.
//
// UnixFS: https://specs.ipfs.tech/unixfs/. DAG-PB: https://ipld.io/specs/codecs/dag-pb/spec/.
const (
	chunkSize   = 1 << 20 // bytes of file in a leaf
	maxLinks    = 174     // children of a node
	maxDirBlock = 64 << 10
	maxDirFiles = 256
	maxNameLen  = 128
	maxTreeSize = 1 << 50 // keeps sums of sizes within an int64

	cidLen     = 4 + sha256.Size // version, codec, hash code, hash length, digest
	sha256Code = multihash.SHA2_256
)

type digest [sha256.Size]byte

// newCID returns the CIDv1 of a block with this sha2-256 digest.
func newCID(codec byte, d digest) cid.Cid {
	id, err := cid.Cast(append([]byte{1, codec, sha256Code, sha256.Size}, d[:]...))
	if err != nil {
		panic(err) // the bytes are well-formed by construction
	}
	return id
}

// digestOf returns the digest in a CID that checkBlobCID accepts.
func digestOf(id cid.Cid) digest { return digest([]byte(id.KeyString())[cidLen-sha256.Size:]) }

// A link is a subtree as its parent sees it.
type link struct {
	name  string // in a directory; empty in a file
	id    cid.Cid
	size  int64 // bytes of file below it
	tsize int64 // those and the bytes of the nodes that hold them together
}

// chunkCount returns how many leaves a file of size bytes has. An empty file has one, empty.
func chunkCount(size int64) int64 { return max(1, size/chunkSize+min(1, size%chunkSize)) }

// chunkLen returns the length of leaf i of a file of size bytes.
func chunkLen(size, i int64) int { return int(min(chunkSize, size-i*chunkSize)) }

// rootOf rebuilds the CID of a file from its size and the digests of its chunks, in order.
// There must be chunkCount(size) digests.
func rootOf(size int64, leaves []digest) link {
	level := make([]link, len(leaves))
	for i, d := range leaves {
		n := int64(chunkLen(size, int64(i)))
		level[i] = link{id: newCID(cid.Raw, d), size: n, tsize: n}
	}
	return balance(level)
}

// balance joins leaves into a balanced tree, filled from the left, and returns its root.
func balance(level []link) link {
	for len(level) > 1 {
		var parents []link
		for children := range slices.Chunk(level, maxLinks) {
			parents = append(parents, fileNode(children))
		}
		level = parents
	}
	return level[0]
}

// fileNode returns the link to a node over children.
func fileNode(children []link) link {
	var l link
	for _, c := range children {
		l.size += c.size
		l.tsize += c.tsize
	}
	// message Data: Type = 1 (File is 2), filesize = 3, blocksizes = 4.
	data := binary.AppendUvarint([]byte{1 << 3, 2, 3 << 3}, uint64(l.size))
	for _, c := range children {
		data = binary.AppendUvarint(append(data, 4<<3), uint64(c.size))
	}
	block := encodeNode(children, data)
	l.id = newCID(cid.DagProtobuf, sha256.Sum256(block))
	l.tsize += int64(len(block))
	return l
}

// encodeNode encodes a DAG-PB node. Canonical form puts the links (field 2) before the data (field 1).
func encodeNode(links []link, data []byte) []byte {
	var block, l []byte
	for _, c := range links {
		l = appendField(l[:0], 1, c.id.Bytes())
		l = appendField(l, 2, []byte(c.name))
		l = binary.AppendUvarint(append(l, 3<<3), uint64(c.tsize))
		block = appendField(block, 2, l)
	}
	return appendField(block, 1, data)
}

// appendField appends a length-delimited protobuf field.
func appendField(b []byte, field byte, value []byte) []byte {
	b = binary.AppendUvarint(append(b, field<<3|2), uint64(len(value)))
	return append(b, value...)
}

// treeSize returns the tsize of a file of size bytes. Within a level all nodes but the last are alike, so that
// two nodes stand for the level.
func treeSize(size int64) int64 {
	n := chunkCount(size)
	leaf := func(size int64) link { return link{id: newCID(cid.Raw, digest{}), size: size, tsize: size} }
	full, last := leaf(chunkSize), leaf(size-(n-1)*chunkSize)
	for n > 1 {
		children := slices.Repeat([]link{full}, maxLinks)
		lastOnes := (n-1)%maxLinks + 1
		full, last = fileNode(children), fileNode(append(children[:lastOnes-1:lastOnes-1], last))
		n = (n + maxLinks - 1) / maxLinks
	}
	return last.tsize
}

// fileSize returns the size of the file whose tree has this tsize, which is what a directory says of it.
func fileSize(tsize int64) (int64, error) {
	size := int64(sort.Search(int(tsize), func(s int) bool { return treeSize(int64(s)) >= tsize }))
	if treeSize(size) != tsize {
		return 0, fmt.Errorf("%w: no file has a tree of %d bytes", ErrMalformed, tsize)
	}
	return size, nil
}

// dirData is the UnixFS message of a directory: Type = 1 (Directory is 1).
var dirData = []byte{1 << 3, 1}

// encodeDir returns the block and the CID of a directory of files. It sorts the files by name.
func encodeDir(files []link) ([]byte, cid.Cid, error) {
	slices.SortFunc(files, func(a, b link) int { return strings.Compare(a.name, b.name) })
	for i, f := range files {
		if err := checkFileName(f.name); err != nil {
			return nil, cid.Undef, err
		}
		if i > 0 && files[i-1].name == f.name {
			return nil, cid.Undef, fmt.Errorf("%w: file %q twice in a directory", ErrMalformed, f.name)
		}
	}
	block := encodeNode(files, dirData)
	if len(block) > maxDirBlock || len(files) > maxDirFiles {
		return nil, cid.Undef, fmt.Errorf("directory of %d files: %w", len(files), ErrTooLarge)
	}
	return block, newCID(cid.DagProtobuf, sha256.Sum256(block)), nil
}

// parseDir reads a directory of files. It accepts exactly what encodeDir writes: canonical encoding, sorted
// and portable names, files whose size follows from their tsize.
func parseDir(block []byte) ([]link, error) {
	if len(block) > maxDirBlock {
		return nil, fmt.Errorf("directory: %w", ErrTooLarge)
	}
	var files []link
	for rest := block; len(rest) > 0 && rest[0] == 2<<3|2; {
		if len(files) == maxDirFiles {
			return nil, fmt.Errorf("directory of over %d files: %w", maxDirFiles, ErrTooLarge)
		}
		var l, hash, name []byte
		var ok bool
		if l, rest, ok = cutField(rest, 2); ok {
			if hash, l, ok = cutField(l, 1); ok {
				name, l, ok = cutField(l, 2)
			}
		}
		if !ok || len(hash) != cidLen || len(l) < 2 {
			return nil, fmt.Errorf("%w: directory link", ErrMalformed)
		}
		id, err := cid.Cast(hash)
		if err != nil {
			return nil, fmt.Errorf("%w: directory link: %w", ErrMalformed, err)
		}
		if err := checkBlobCID(id); err != nil {
			return nil, err
		}
		tsize, n := binary.Uvarint(l[1:])
		if n <= 0 || tsize > maxTreeSize {
			return nil, fmt.Errorf("%w: directory link size", ErrMalformed)
		}
		size, err := fileSize(int64(tsize))
		if err != nil {
			return nil, err
		}
		if (size > chunkSize) != (id.Type() == cid.DagProtobuf) {
			return nil, fmt.Errorf("%w: file of %d bytes cannot have the CID %s", ErrMalformed, size, id)
		}
		files = append(files, link{name: string(name), id: id, size: size, tsize: int64(tsize)})
	}
	again, _, err := encodeDir(slices.Clone(files))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, block) {
		return nil, fmt.Errorf("%w: directory is not in canonical form", ErrMalformed)
	}
	return files, nil
}

// cutField splits off a leading length-delimited protobuf field.
func cutField(b []byte, field byte) (value, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != field<<3|2 {
		return nil, nil, false
	}
	size, n := binary.Uvarint(b[1:])
	if n <= 0 || size > uint64(len(b)-1-n) {
		return nil, nil, false
	}
	b = b[1+n:]
	return b[:size], b[size:], true
}

// checkFileName accepts names that are a plain file on every system.
func checkFileName(name string) error {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
	}
	if name == "" || len(name) > maxNameLen || name[0] == '.' || !filepath.IsLocal(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return fmt.Errorf("%w: file name %q: use letters, digits, '-', '_' and '.'", ErrMalformed, name)
	}
	return nil
}

// BlobCID reads r to its end and returns the CID and the size of the blob that it is.
func BlobCID(r io.Reader) (cid.Cid, int64, error) {
	size, leaves, err := hashChunks(r, io.Discard)
	if err != nil {
		return cid.Undef, 0, err
	}
	return rootOf(size, leaves).id, size, nil
}

// hashChunks copies r to w and returns the size and the digest of each chunk.
func hashChunks(r io.Reader, w io.Writer) (size int64, leaves []digest, err error) {
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(r, buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return 0, nil, err
		}
		if n > 0 || len(leaves) == 0 {
			leaves = append(leaves, sha256.Sum256(buf[:n]))
			size += int64(n)
			if _, err := w.Write(buf[:n]); err != nil {
				return 0, nil, err
			}
		}
		if n < chunkSize {
			return size, leaves, nil
		}
	}
}
