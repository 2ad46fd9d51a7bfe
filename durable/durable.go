// Package durable puts files and folders in place so that they survive a crash: whole, or not at all.
//
// What is new is written beside its place under a name of its own, brought to the disk, and renamed. Whoever
// looks meanwhile, or after a power failure at any moment, finds what was there before or what is there now,
// never a part. A name that begins with a dot and ends in ".tmp" is what a crash may leave; it can be deleted.
//
// The package keeps no lock: of several writers of one file the last wins, of several makers of one folder the
// first. It does not append or change in place; that is a database's work. Begin with [WriteFile] and [Folder].
package durable

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// WriteFile gives path the content that write writes, or changes nothing. A file that is there is replaced; the
// new one is readable by its owner alone. Small writes are gathered. An error of write comes back as it is;
// every other one names the file. The folder of path must exist.
func WriteFile(path string, write func(io.Writer) error) error {
	dir, name := filepath.Split(filepath.Clean(path))
	f, err := os.CreateTemp(here(dir), temporary(name)) // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing of that name
	defer f.Close()           // a second Close does nothing; a panic in write passes here
	w := bufio.NewWriterSize(f, 1<<16)
	if err := write(w); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return toDisk(here(dir), fs.ModeDir)
}

// Bytes is the write of [WriteFile] for content that is in memory.
func Bytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// Folder makes the folder path with what fill puts into dir, or leaves nothing. A path that exists, be it an
// empty folder, is refused with [fs.ErrExist], before fill runs where that can be known. The folder is open to
// its owner alone; below it, files and folders have the modes that fill gives them. An error of fill comes back
// as it is; every other one names the path. The folder that path is to stand in must exist.
func Folder(path string, fill func(dir string) error) error {
	if exists(path) {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	parent, name := filepath.Split(filepath.Clean(path))
	dir, err := os.MkdirTemp(here(parent), temporary(name)) // mode 0700
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	defer os.RemoveAll(dir) // after the rename there is nothing of that name
	if err := fill(dir); err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return toDisk(p, d.Type())
	})
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if err := os.Rename(dir, path); err != nil {
		if exists(path) { // made while fill ran
			return fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		return fmt.Errorf("make %s: %w", path, err)
	}
	return toDisk(here(parent), fs.ModeDir)
}

func temporary(name string) string { return "." + name + ".*.tmp" }

// here is a folder as [filepath.Split] gives it, where none means the working one.
func here(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// toDisk brings a file's content, or a folder's names, to the disk; there is nothing to do for a link. Windows
// syncs no folder, its file system logs names by itself, and a file only when it is open for writing.
func toDisk(path string, mode fs.FileMode) error {
	flag := os.O_RDONLY
	switch {
	case !mode.IsDir() && !mode.IsRegular(), mode.IsDir() && runtime.GOOS == "windows":
		return nil
	case runtime.GOOS == "windows":
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
