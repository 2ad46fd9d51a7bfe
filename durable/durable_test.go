package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
)

var errStop = errors.New("stop")

// holds fails the test unless dir holds those names and no other.
func holds(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func content(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s holds %q, %v; want %q", filepath.Base(path), b, err, want)
	}
}

func mode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return // whose files have no such modes
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != want {
		t.Errorf("%s has mode %v, %v; want %v", filepath.Base(path), info.Mode(), err, want)
	}
}

func TestWriteFileReplacesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, want := range []string{"first", "", string(bytes.Repeat([]byte("long"), 1<<16))} {
		if err := WriteFile(path, Bytes([]byte(want))); err != nil {
			t.Fatal(err)
		}
		content(t, path, want)
		mode(t, path, 0o600)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, dir, "f")
}

func TestANameWithoutAFolderStandsInTheWorkingOne(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := WriteFile("f", Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	if err := Folder("d/", func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	holds(t, dir, "d", "f")
}

func TestWriteFileThatCannotGoOnChangesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, Bytes([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(){"an error": func() {}, "a panic": func() { panic("stop") }} {
		func() {
			defer func() { _ = recover() }()
			err := WriteFile(path, func(w io.Writer) error {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					t.Error(err)
				}
				end()
				return errStop
			})
			if err != errStop {
				t.Errorf("%s: the error is %v, want that of write", name, err)
			}
		}()
		content(t, path, "old")
		holds(t, dir, "f")
	}
}

func TestWriteFileDoesNotReplaceAFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(path, "in it"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, Bytes(nil)); err == nil {
		t.Error("a folder was replaced")
	}
	holds(t, dir, "d")
	holds(t, path, "in it")
}

func TestAFolderThatIsNotThereIsAnErrorOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "f")
	never := func(string) error { t.Error("filled"); return nil }
	for _, err := range []error{WriteFile(path, Bytes(nil)), Folder(path, never)} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want %q", err, fs.ErrNotExist)
		}
	}
}

func TestOfManyWritersOneWinsWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := WriteFile(path, Bytes(bytes.Repeat([]byte{byte('a' + i)}, 1<<18))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 1<<18 || !bytes.Equal(b, bytes.Repeat(b[:1], len(b))) {
		t.Errorf("the file is a mixture of %d bytes, %v", len(b), err)
	}
	holds(t, dir, "f")
}

// nested fills a folder with a file, and a folder with a file and a link.
func nested(dir string) error {
	deep := filepath.Join(dir, "deep")
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "f"), []byte("one"), 0o400),
		os.Mkdir(deep, 0o755),
		WriteFile(filepath.Join(deep, "g"), Bytes([]byte("two"))),
		os.Symlink("nowhere", filepath.Join(deep, "link")),
	)
}

func TestFolderAppearsWhole(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a link takes a privilege, and a file that is read-only cannot be synced: run it on another system")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "d")
	err := Folder(path, func(part string) error {
		if exists(path) || filepath.Dir(part) != dir {
			t.Errorf("%s is filled as %s", path, part)
		}
		return nested(part)
	})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, dir, "d")
	holds(t, path, "deep", "f")
	content(t, filepath.Join(path, "f"), "one")
	content(t, filepath.Join(path, "deep", "g"), "two")
	mode(t, path, fs.ModeDir|0o700)
}

func TestFolderThatCannotGoOnLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	for name, end := range map[string]func(){"an error": func() {}, "a panic": func() { panic("stop") }} {
		func() {
			defer func() { _ = recover() }()
			err := Folder(filepath.Join(dir, "d"), func(part string) error {
				if err := os.WriteFile(filepath.Join(part, "f"), nil, 0o600); err != nil {
					t.Error(err)
				}
				end()
				return errStop
			})
			if err != errStop {
				t.Errorf("%s: the error is %v, want that of fill", name, err)
			}
		}()
		holds(t, dir)
	}
}

func TestFolderRefusesWhatExists(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "empty"} {
		err := Folder(filepath.Join(dir, name), func(string) error { t.Error("filled"); return nil })
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: error %v, want %q", name, err, fs.ErrExist)
		}
	}
	// What comes into being while the folder is filled is refused as well.
	for name, make := range map[string]func(path string) error{
		"late file":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"late empty":  func(path string) error { return os.Mkdir(path, 0o700) },
		"late folder": func(path string) error { return os.MkdirAll(filepath.Join(path, "in it"), 0o700) },
	} {
		path := filepath.Join(dir, name)
		if err := Folder(path, func(string) error { return make(path) }); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: error %v, want %q", name, err, fs.ErrExist)
		}
	}
	holds(t, dir, "empty", "file", "late empty", "late file", "late folder")
	holds(t, filepath.Join(dir, "empty"))
}

func TestOfManyMakersOneWins(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d")
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = Folder(path, func(part string) error {
				return os.WriteFile(filepath.Join(part, fmt.Sprint(i)), nil, 0o600)
			})
		})
	}
	wg.Wait()
	won := slices.Index(errs, nil)
	for i, err := range errs {
		if i != won && !errors.Is(err, fs.ErrExist) {
			t.Errorf("maker %d: error %v, want %q", i, err, fs.ErrExist)
		}
	}
	holds(t, dir, "d")
	holds(t, path, fmt.Sprint(won))
}
