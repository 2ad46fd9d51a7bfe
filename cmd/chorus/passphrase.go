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
func (a *app) passphrase(what string) (string, error) {
	if path := os.Getenv(passphraseFile); path != "" {
		return firstLine(path)
	}
	return a.ask(fmt.Sprintf("Passphrase of %s: ", what))
}

// newPassphrase asks twice.
func (a *app) newPassphrase(what string) (string, error) {
	first, err := a.ask(fmt.Sprintf("New passphrase of %s: ", what))
	if err != nil {
		return "", err
	}
	again, err := a.ask("Once more: ")
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

// ask asks on the terminal, without echo.
func (a *app) ask(prompt string) (string, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", errNobodyToAsk
	}
	fmt.Fprint(a.err, prompt)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(a.err)
	return string(b), err
}

// readKey reads a key file and opens it.
func (a *app) readKey(path string) (*node.KeyFile, error) {
	f, err := node.ReadKeyFile(path)
	if err != nil || !f.Protected() {
		return f, err
	}
	pass, err := a.passphrase(path)
	if err != nil {
		return nil, err
	}
	if err := f.Open(pass); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// unlocked has a node do what its publishing key is needed for, after opening that if it is locked.
func (a *app) unlocked(ctx context.Context, k node.Control, do func() error) error {
	err := do()
	if !errors.Is(err, node.ErrLocked) {
		return err
	}
	pass, asked := a.passphrase(a.node().PublishingKeyPath())
	if asked != nil {
		return errors.Join(asked, err)
	}
	if err := k.Open(ctx, pass); err != nil {
		return err
	}
	return do()
}
