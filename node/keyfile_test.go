package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"chorus/ledger/notice"
)

// keyFiles returns a key file of each form.
func keyFiles(t testing.TB) (all [][]byte) {
	plain, err := NewKeyFile(KeyInfo{})
	if err != nil {
		t.Fatal(err)
	}
	full, err := NewKeyFile(KeyInfo{Use: "revoker", Member: "clinic", Charter: notice.Identity([32]byte{1}), Peers: []string{"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*KeyFile{plain, full} {
		for _, pass := range []string{"", "a passphrase"} {
			if err := f.Protect(pass); err != nil {
				t.Fatal(err)
			}
			b, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
		}
	}
	return all
}

func TestAKeyFileReadsBack(t *testing.T) {
	for _, b := range keyFiles(t) {
		f, err := ParseKeyFile(b)
		if err != nil {
			t.Fatalf("%v of\n%s", err, b)
		}
		if f.Protected() {
			if _, err := f.Private(); !errors.Is(err, ErrLocked) {
				t.Errorf("a locked key: %v", err)
			}
			if err := f.Open("another"); !errors.Is(err, ErrPassphrase) {
				t.Errorf("another passphrase: %v", err)
			}
			if err := f.Open("a passphrase"); err != nil {
				t.Error(err)
			}
		}
		if key, err := f.Private(); err != nil || notice.PublicKeyOf(key) != f.Key {
			t.Errorf("the key of %s: %v", f.Key, err)
		}
		if again, err := f.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("written %s, %v, read from\n%s", again, err, b)
		}
	}
}

func TestAKeyFileThatSaysSomethingElseIsRefused(t *testing.T) {
	all := keyFiles(t)
	for name, b := range map[string][]byte{
		"the info of another key":  append(bytes.Clone(all[2][:bytes.Index(all[2], []byte("-----BEGIN PRIVATE"))]), all[0]...),
		"an unknown header":        bytes.Replace(all[2], []byte("Use: "), []byte("Purpose: "), 1),
		"another spelling":         bytes.Replace(all[2], []byte("Use: "), []byte("Use:  "), 1),
		"a gap in the peers":       bytes.Replace(all[2], []byte("Peer-2"), []byte("Peer-3"), 1),
		"encrypted, without a key": all[3][bytes.Index(all[3], []byte("-----BEGIN AGE")):],
		"encrypted, cut short":     all[3][:len(all[3])-40],
	} {
		if _, err := ParseKeyFile(b); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestAKeyThatOthersMayReadIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows says in other ways who may read a file: run it on another system")
	}
	path := filepath.Join(t.TempDir(), "x.key")
	if err := os.WriteFile(path, keyFiles(t)[0], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o602, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}

// FuzzKeyFile: a key file that reads is written in a way that reads the same.
func FuzzKeyFile(f *testing.F) {
	for _, b := range keyFiles(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeyFile(b)
		if err != nil {
			return
		}
		written, err := k.Encode()
		if err != nil {
			t.Fatalf("%v of what was read from\n%s", err, b)
		}
		again, err := ParseKeyFile(written)
		if err != nil || again.Key != k.Key || again.Protected() != k.Protected() || again.Member != k.Member || len(again.Peers) != len(k.Peers) {
			t.Errorf("read again: %+v, %v, expected %+v", again, err, k)
		}
	})
}
