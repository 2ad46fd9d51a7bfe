package main

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/spf13/cobra"
)

func TestAQuestionThatNobodyAnswersEndsWithTheCommand(t *testing.T) {
	in, typing := io.Pipe()
	defer typing.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	asked, question := io.Pipe()
	a := &app{ui: newUI(io.Discard, question)}
	c := &cobra.Command{}
	c.SetIn(in)
	c.SetContext(ctx)
	go func() {
		_, _ = asked.Read(make([]byte, 64)) // it has been asked
		interrupt()
		_, _ = io.Copy(io.Discard, asked)
	}()
	if err := a.confirm(c, false, "Sign it?"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, expected %v", err, context.Canceled)
	}
	if _, err := typed(ctx, func() (string, error) { select {} }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, expected %v", err, context.Canceled)
	}
}
