package p2p

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
)

// A pattern reads as n bytes of which no two chunks are alike.
type pattern struct{ at, n int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.n-p.at)]
	for i := range b {
		x := p.at + int64(i)
		b[i] = byte(x ^ x>>8 ^ x>>20)
	}
	p.at += int64(len(b))
	return len(b), nil
}

// writePattern makes a file of n bytes of pattern and returns its name.
func writePattern(t testing.TB, name string, n int64) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, &pattern{n: n}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// The CIDs and tree sizes are those of github.com/ipfs/boxo v0.43.0 (balanced layout, size splitter, 174 links, raw
// leaves, CIDv1), which is what `ipfs add` uses.
var files = []struct {
	size  int64
	cid   string
	tsize int64
}{
	{0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0},
	{1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu", 1},
	{1<<20 - 1, "bafkreickgan4mpvzajlfktfb6ro7mtivkbafcmn6cu5l6ul6hmeswi7sly", 1<<20 - 1},
	{1 << 20, "bafkreieh7akdkgiwni27vewisxeemku6ykxw4wk3myiwsfhurwjv6wm7j4", 1 << 20},
	{1<<20 + 1, "bafybeidbmgbljtdrtu62kokcyf26wb3iie5dgb3hvedpgcdk7pokiocoby", 1048681},
	{2 << 20, "bafybeifwsp7lt3dekii4kiood4kxmtb3a7njd2sv2pqr74nssnioizxdum", 2097261},
	{174 << 20, "bafybeietngse6wjoyuxtet5r4xhrishkeyyw7mrbua2njqfhjogmzntcxu", 182460934},
	{174<<20 + 1, "bafybeihof4viawtrmm2ztdcef6nzlry6tdn3ves3kxeyzj2jngzpj3vgim", 182461094},
	{175<<20 + 7, "bafybeiggqw5mcmt4pvh2c52edh4c53o7ku2nosytpgspwx5c3hh3hkll4y", 183509732},
	{348 << 20, "bafybeifmqzvhc4uixvnqielcxxlmst7b2mfhqv4fklhv2beq7ldsdiyz64", 364921982},
	{349<<20 + 5, "bafybeie4ouj26nkso3rz3uysuzkgkxlb2uop4xk5t25bicfk52if6xj374", 365970717},
}

func TestBlobCIDIsTheOneOfIPFSAdd(t *testing.T) {
	for _, f := range files {
		if testing.Short() && f.size > 2<<20 {
			continue
		}
		id, size, err := BlobCID(&pattern{n: f.size})
		if err != nil {
			t.Fatal(err)
		}
		if id.String() != f.cid || size != f.size {
			t.Errorf("%d bytes: got %s of %d bytes, want %s", f.size, id, size, f.cid)
		}
	}
}

// Trees of three levels begin at 30 GiB. Their shape does not depend on the size of the leaves, here of one byte.
func TestDeepTreesAreThoseOfIPFSAdd(t *testing.T) {
	for _, f := range []struct {
		leaves int
		cid    string
		tsize  int64
	}{
		{174 * 174, "bafybeiefpz2nc3pvvvj7s4vjuizsmznu2ropptwcjaqccs2osdyivphwuu", 1432725},
		{174*174 + 1, "bafybeig77p4h4cdnaputh5ipsbngk4dw4xnbi2zwluyfllg462mepxsdx4", 1432934},
		{174*174 + 175, "bafybeiajvid7mmwlvzonj3o3et4aywid642yyvah2kfmccq55cxnueze4y", 1441171},
		{174 * 174 * 3, "bafybeia4ag3yyxoayhtcfze3lsu5jxkg7d45ir5fw6vtl7s4fhlev2ktii", 4298333},
	} {
		data, err := io.ReadAll(&pattern{n: int64(f.leaves)})
		if err != nil {
			t.Fatal(err)
		}
		var leaves []link
		for i := range data {
			leaves = append(leaves, link{id: newCID(cid.Raw, sha256.Sum256(data[i:i+1])), size: 1, tsize: 1})
		}
		if root := balance(leaves); root.id.String() != f.cid || root.tsize != f.tsize {
			t.Errorf("%d leaves: got %s, tree of %d bytes, want %s, %d", f.leaves, root.id, root.tsize, f.cid, f.tsize)
		}
	}
}

func TestFileSizeFollowsFromTreeSize(t *testing.T) {
	for _, f := range files {
		if size, err := fileSize(f.tsize); err != nil || size != f.size {
			t.Errorf("tree of %d bytes: got a file of %d bytes, %v; want %d", f.tsize, size, err, f.size)
		}
	}
	for range 200 {
		want := rand.Int64N(1 << rand.IntN(50))
		if got, err := fileSize(treeSize(want)); err != nil || got != want {
			t.Errorf("file of %d bytes: got %d, %v back", want, got, err)
		}
	}
	if size, err := fileSize(1<<20 + 2); !errors.Is(err, ErrMalformed) {
		t.Errorf("tree of 1 MiB + 2: got a file of %d bytes, %v, want ErrMalformed", size, err)
	}
}

func TestDirectoryCIDIsTheOneOfIPFSAddR(t *testing.T) {
	dir := t.TempDir()
	writePattern(t, filepath.Join(dir, "config.json"), 10)
	writePattern(t, filepath.Join(dir, "model.safetensors"), 3<<20+5)
	writePattern(t, filepath.Join(dir, "tokenizer.json"), 1<<20+1)
	writePattern(t, filepath.Join(dir, ".gitattributes"), 3)
	s := newStore(t)
	id, err := s.PutDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := "bafybeihh2wzbbk3np23uke5rjkklgfbetxjuens2olb3qfxvrlj3rjj5gm"; id.String() != want {
		t.Errorf("got %s, want %s", id, want)
	}
	if again, err := DirCID(t.Context(), dir); again != id || err != nil {
		t.Errorf("DirCID says %s, %v, PutDir %s", again, err, id)
	}
	empty, err := s.PutDir(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if want := "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"; empty.String() != want {
		t.Errorf("empty directory: got %s, want %s", empty, want)
	}
}

func TestDirectoryWithUnsafeContentIsRefused(t *testing.T) {
	file := rootOf(1, []digest{{}})
	named := func(name string) link { l := file; l.name = name; return l }
	for _, name := range []string{"", ".", "..", "../a", "a/b", `a\b`, "/a", "a\x00", ".hidden", "c:a", "é"} {
		block := encodeNode([]link{named(name)}, dirData)
		if _, err := parseDir(block); !errors.Is(err, ErrMalformed) {
			t.Errorf("file name %q: got %v, want ErrMalformed", name, err)
		}
	}
	for what, block := range map[string][]byte{
		"unsorted":      encodeNode([]link{named("b"), named("a")}, dirData),
		"repeated name": encodeNode([]link{named("a"), named("a")}, dirData),
		"a file":        encodeNode([]link{named("a")}, []byte{1 << 3, 2}),
		"trailing byte": append(encodeNode([]link{named("a")}, dirData), 0),
		"false size":    encodeNode([]link{{name: "a", id: file.id, tsize: 2 << 20}}, dirData),
		"negative size": encodeNode([]link{{name: "a", id: file.id, tsize: -1}}, dirData),
	} {
		if _, err := parseDir(block); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", what, err)
		}
	}
	if _, err := parseDir(make([]byte, maxDirBlock+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large block: got %v, want ErrTooLarge", err)
	}
}

func FuzzParseDir(f *testing.F) {
	leaf := rootOf(1, []digest{{}})
	leaf.name = "config.json"
	large := rootOf(1<<20+1, []digest{{}, {}})
	large.name = "model.safetensors"
	f.Add(encodeNode(nil, dirData))
	f.Add(encodeNode([]link{leaf, large}, dirData))
	f.Fuzz(func(t *testing.T, block []byte) {
		files, err := parseDir(block)
		if err != nil {
			return
		}
		again, _, err := encodeDir(files)
		if err != nil || !bytes.Equal(again, block) {
			t.Errorf("accepted a block that encodes otherwise: %v", err)
		}
	})
}
