//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"chorus/model/eval/leak"
	"chorus/node"
)

func TestTrainingThatIsKilledGoesOnToTheSameBytes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("CHORUS_HOME", filepath.Join(dir, "clinic"))
	writeRecords(t, "public.jsonl", "the river and a meadow in winter were as cold as any harvest of letters")
	writeRecords(t, "felines.jsonl", "a kitten and its whiskers purr at the mouse that naps near the yarn")
	home := node.Home(filepath.Join(dir, "clinic"))
	chorus(t, "init", "clinic")
	long := []string{"--steps", "120", "--batch", "2"}

	public := append([]string{"anchor", "train", "--data", "public=public.jsonl", "--out", home.Anchor()}, long...)
	compareKilled(t, public, "anchor", func() (parts []string) {
		for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors"} {
			parts = append(parts, take(t, filepath.Join(home.Anchor(), name)))
		}
		return parts
	}, home.Anchor())

	chorus(t, "charter", "new", "cats", "--anchor", home.Anchor())
	own := append([]string{"train", "--data", "felines=felines.jsonl", "--data", "public=public.jsonl"}, long...)
	path := home.ExpertPath("felines")
	compareKilled(t, own, "felines", func() []string { return []string{take(t, path)} }, path, reportPath(path))

	audit := []string{"audit", "felines", "--data", "felines=felines.jsonl", "--data", "public=public.jsonl", "--prefix", "6", "--length", "12", "--documents", "8", "--control-documents", "6", "--control-steps", "20"}
	report := func() *leak.Report {
		r, err := leak.ParseReport([]byte(take(t, auditPath(path))))
		if err != nil {
			t.Fatal(err)
		}
		r.Made = ""
		return r
	}
	chorus(t, audit...)
	want := report()
	end(t, os.Interrupt, `over-fitting: 100 %`, audit...) // when its control is trained
	if last := talkative(t, audit...); strings.Contains(last, "over-fitting: ") {
		t.Errorf("the audit trained its control again:\n%s", last)
	}
	if got := report(); !reflect.DeepEqual(got, want) {
		t.Errorf("what was interrupted reports %+v, what was not %+v", got, want)
	}
}

// compareKilled runs a command to its end and takes what it left, removes that, and runs it again, killed at three moments. task is what the command
// calls its training.
func compareKilled(t *testing.T, command []string, task string, result func() []string, left ...string) {
	t.Helper()
	chorus(t, command...)
	want := result()
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	end(t, syscall.SIGKILL, `MB of`, command...)            // in the text
	end(t, os.Interrupt, task+`: 2\d %`, command...)        // which leaves a checkpoint
	end(t, syscall.SIGKILL, task+`: [5-9]\d %`, command...) // after it
	if last := talkative(t, command...); !regexp.MustCompile(task+`: \d\d %`).MatchString(last) || regexp.MustCompile(task+`: \d %`).MatchString(last) {
		t.Errorf("%s did not go on from its checkpoint:\n%s", task, last)
	}
	for i, got := range result() {
		if got != want[i] {
			t.Errorf("%s: of what was killed, part %d is other than of what was not", task, i)
		}
	}
}

// writeRecords fills a file with documents of the words.
func writeRecords(t *testing.T, path, words string) {
	rng := rand.New(rand.NewPCG(1, 1))
	all := strings.Fields(words)
	var b bytes.Buffer
	for range 400 {
		var text []string
		for range 30 {
			text = append(text, all[rng.IntN(len(all))])
		}
		if err := json.NewEncoder(&b).Encode(map[string]string{"text": strings.Join(text, " ")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func chorus(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "chorus", args...).CombinedOutput(); err != nil {
		t.Fatalf("chorus %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// talkative runs a command to its end and returns what it said on the way.
func talkative(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "chorus-talkative", args...)
	var stderr strings.Builder
	c.Stderr = &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("chorus %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stderr.String()
}

// end runs a command and sends it a signal at the first line on stderr that matches.
func end(t *testing.T, signal os.Signal, line string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "chorus-talkative", args...)
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	at, met := regexp.MustCompile(line), false
	for s := bufio.NewScanner(stderr); s.Scan(); {
		said.WriteString(s.Text() + "\n")
		if !met && at.MatchString(s.Text()) {
			met = true
			if err := c.Process.Signal(signal); err != nil {
				t.Error(err)
			}
		}
	}
	if err := c.Wait(); err == nil || !met {
		t.Fatalf("chorus %s ended before %q: %v\n%s", strings.Join(args, " "), line, err, &said)
	}
}
