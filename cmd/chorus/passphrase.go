package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"chorus/node"

	"golang.org/x/term"
)

// passphraseFile names a file whose first line is the passphrase, for machines without a person.
const passphraseFile = "CHORUS_PASSPHRASE_FILE"

// errNobodyToAsk says that a passphrase is needed and there is neither a terminal nor a file.
var errNobodyToAsk = errors.New("a passphrase is needed, and there is no terminal to ask on")

// passphrase returns the passphrase of what, from the file that the environment names or from the terminal, where it is not shown.
func (a *app) passphrase(ctx context.Context, what string) (string, error) {
	if path := os.Getenv(passphraseFile); path != "" {
		return firstLine(path)
	}
	return a.ask(ctx, fmt.Sprintf("Passphrase of %s: ", what))
}

// newPassphrase asks twice.
func (a *app) newPassphrase(ctx context.Context, what string) (string, error) {
	first, err := a.ask(ctx, fmt.Sprintf("New passphrase of %s: ", what))
	if err != nil {
		return "", err
	}
	again, err := a.ask(ctx, "Once more: ")
	if err == nil && first != again {
		err = errors.New("the two are not the same")
	}
	return first, err
}

func firstLine(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return "", fmt.Errorf("%s: no passphrase in its first line", path)
	}
	return string(line), nil
}

// ask asks on the terminal, without echo, which comes back whatever ends it.
func (a *app) ask(ctx context.Context, prompt string) (string, error) {
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", errNobodyToAsk
	}
	fmt.Fprint(a.err, prompt)
	b, err := typed(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if err != nil {
		err = errors.Join(err, term.Restore(fd, before))
	}
	fmt.Fprintln(a.err)
	return string(b), err
}

// typed returns what read does, which waits for somebody to type, or ctx's error once that ends: then read is left waiting, until the
// command ends too.
func typed[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type answer struct {
		what T
		err  error
	}
	c := make(chan answer, 1)
	go func() {
		what, err := read()
		c <- answer{what, err}
	}()
	select {
	case got := <-c:
		return got.what, got.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
}

// readKey reads a key file and opens it.
func (a *app) readKey(ctx context.Context, path string) (*node.KeyFile, error) {
	f, err := node.ReadKeyFile(path)
	if err != nil || !f.Protected() {
		return f, err
	}
	pass, err := a.passphrase(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := f.Open(pass); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// unlocked has a node do what its publishing key is needed for, after opening that if it is locked. A passphrase that the environment brings is tried
// also where the node has opened the key before: one that is wrong is never taken for right.
func (a *app) unlocked(ctx context.Context, k node.Control, do func() error) error {
	path := a.node().PublishingKeyPath()
	open := func() error {
		pass, err := a.passphrase(ctx, path)
		if err != nil {
			return err
		}
		return k.Open(ctx, pass)
	}
	if f, err := node.ReadKeyFile(path); err == nil && f.Protected() && os.Getenv(passphraseFile) != "" {
		if err := open(); err != nil {
			return err
		}
		return do()
	}
	err := do()
	if !errors.Is(err, node.ErrLocked) {
		return err
	}
	if failed := open(); errors.Is(failed, errNobodyToAsk) {
		return errors.Join(failed, err)
	} else if failed != nil {
		return failed
	}
	return do()
}
