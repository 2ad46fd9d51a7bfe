// Command trials re-measures every claim that the project makes, and exits non-zero where one does
// not hold.
//
//	go run ./cmd/trials demo --seeds 3
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := &cobra.Command{
		Use: "trials", Short: "Re-measure the project's claims",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(demoTrial(), parityTrial(), tokenizerTrial(), safetensorsTrial(), largeTrial(), lowrankTrial(), kernelsTrial(), paperTrial(), privacyTrial(), streamTrial(), specTrial(), syncTrial(), revokeTrial(), processesTrial(), floodTrial(), consentTrial())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "trials:", err)
		os.Exit(1)
	}
}

// interruptible is a command that is interrupted at the end of ctx, where [exec.CommandContext] kills.
func interruptible(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	return c
}

// buildChorus builds the command in dir and returns its path.
func buildChorus(ctx context.Context, dir string) (string, error) {
	chorus := filepath.Join(dir, "chorus.exe")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", chorus, "chorus/cmd/chorus").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building chorus: %w\n%s", err, out)
	}
	return chorus, nil
}

// trialFolder makes a temporary folder and builds the command in it. The caller removes the folder.
func trialFolder(ctx context.Context) (dir, chorus string, err error) {
	if dir, err = os.MkdirTemp("", "chorus-trial-"); err != nil {
		return "", "", err
	}
	if chorus, err = buildChorus(ctx, dir); err != nil {
		return "", "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, chorus, nil
}
