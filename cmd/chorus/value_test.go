package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chorus/node"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheDigestOfAnEvaluationSetIsWhatTheHelpSays(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "set", "b.txt")
	write(t, file, "abc")
	write(t, filepath.Join(dir, "set", "a", "c.txt"), "")
	got, err := digestOf(file)
	if want := "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; err != nil || got != want {
		t.Errorf("of a file: %s, %v, want %s", got, err, want)
	}
	all, err := digestOf(filepath.Join(dir, "set"))
	if err != nil {
		t.Fatal(err)
	}
	if sh, err := exec.LookPath("sha256sum"); err == nil && filepath.Separator == '/' {
		c := exec.Command("sh", "-c", "find . -type f | LC_ALL=C sort | xargs "+sh+" | "+sh)
		c.Dir = filepath.Join(dir, "set")
		out, err := c.Output()
		if want := strings.Fields(string(out) + " x")[0]; err != nil || all != digestPrefix+want {
			t.Errorf("of a folder: %s, %v, want %s", all, err, want)
		}
	}
	write(t, file, "abd")
	if other, err := digestOf(filepath.Join(dir, "set")); err != nil || other == all {
		t.Errorf("another file gives the same digest, error %v", err)
	}
}

func TestAJournalKeepsThePiecesOfTheSameWorkOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "training", "work.journal")
	j, err := openJournal(path, "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.put("a", 1.5); err != nil {
		t.Fatal(err)
	}
	interrupted := errors.New("interrupted")
	if err := j.end(interrupted); !errors.Is(err, interrupted) {
		t.Fatalf("error %v", err)
	}
	var v float64
	if j, err = openJournal(path, "one"); err != nil || !j.get("a", &v) || v != 1.5 || j.get("b", &v) {
		t.Errorf("the same work: %v, error %v", v, err)
	}
	other, err := openJournal(path, "other")
	if err != nil || other.get("a", &v) {
		t.Errorf("other work has a piece of the first, error %v", err)
	}
	if err := j.end(nil); err != nil || exists(path) {
		t.Errorf("when all is done the journal is there: %v, error %v", exists(path), err)
	}
	write(t, path, "{")
	if _, err := openJournal(path, "one"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken journal: error %v", err)
	}
}

func TestAValuationReportsHowItWasSampledIfItWas(t *testing.T) {
	for _, s := range []*Sampling{nil, {Pairs: 20, Seed: 0, Confidence: 0.95}} {
		var out strings.Builder
		if err := node.WriteJSON(&out, valueReport{Sampling: s}); err != nil {
			t.Fatal(err)
		}
		for _, field := range []string{`"banzhaf_pairs": 20`, `"banzhaf_seed": 0`, `"banzhaf_confidence": 0.95`} {
			if strings.Contains(out.String(), field) != (s != nil) {
				t.Errorf("of %+v, %s is in %s", s, field, &out)
			}
		}
	}
}
