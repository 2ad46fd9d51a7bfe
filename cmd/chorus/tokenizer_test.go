package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInterruptedTokenizerTrainingLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	text, out := filepath.Join(dir, "text.txt"), filepath.Join(dir, "tokenizer.json")
	var lines strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&lines, "line %d of many\n", i)
	}
	if err := os.WriteFile(text, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	code := run(ctx, []string{"tokenizer", "train", "--data", text, "--out", out}, &stdout, &stderr)
	if code != exitInterrupted || !strings.HasPrefix(stderr.String(), "chorus: error: interrupted\n") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}
