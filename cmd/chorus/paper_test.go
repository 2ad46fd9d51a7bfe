package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestPaperReadsBackAsItIsTyped(t *testing.T) {
	for _, size := range []int{0, 1, 9, 10, 32, 299} {
		b := make([]byte, size)
		rand.Read(b)
		text := writePaper(paperKey, b)
		for name, typed := range map[string]string{
			"as printed":   text,
			"small":        strings.ToLower(text),
			"likeness":     strings.NewReplacer("0", "O", "1", "l").Replace(strings.ReplaceAll(text, paperKey, paperKey+"\n# for you")),
			"no spaces":    strings.ReplaceAll(strings.ReplaceAll(text, "  ", " "), "\n", "\r\n\n"),
			"words before": "Keep this.\n\n" + text,
			"code":         codePaper(paperKey, b),
			"code, small":  "\n" + strings.ToLower(codePaper(paperKey, b)),
		} {
			if name == "likeness" { // but for the numbers of lines
				var lines []string
				for i, line := range strings.Split(text, "\n")[1:] {
					if len(line) > 4 {
						lines = append(lines, fmt.Sprintf("%d. %s", i+1, strings.NewReplacer("0", "O", "1", "l").Replace(line[4:])))
					}
				}
				typed = paperKey + "\n" + strings.Join(lines, "\n")
			}
			got, err := readPaper(paperKey, typed)
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes, %s: %x, %v, expected %x from\n%s", size, name, got, err, b, typed)
			}
		}
	}
}

func TestASlipOnPaperIsFoundInItsLine(t *testing.T) {
	b := make([]byte, 45)
	rand.Read(b)
	lines := strings.Split(strings.TrimSpace(writePaper(paperPresigned, b)), "\n")
	for n := 1; n < len(lines); n++ {
		for i := 5; i < len(lines[n]); i++ {
			if lines[n][i] == ' ' {
				continue
			}
			typed := slices.Clone(lines)
			other := byte('7')
			if typed[n][i] == other {
				other = '8'
			}
			typed[n] = typed[n][:i] + string(other) + typed[n][i+1:]
			_, err := readPaper(paperPresigned, strings.Join(typed, "\n"))
			if !errors.Is(err, errPaper) || !strings.Contains(err.Error(), fmt.Sprintf("a slip in line %d", n)) {
				t.Errorf("line %d, character %d: %v", n, i, err)
			}
		}
		if _, err := readPaper(paperPresigned, strings.Join(slices.Delete(slices.Clone(lines), n, n+1), "\n")); !errors.Is(err, errPaper) {
			t.Errorf("without line %d: %v", n, err)
		}
	}
	if _, err := readPaper(paperKey, strings.Join(lines, "\n")); !errors.Is(err, errPaper) {
		t.Errorf("another kind of paper: %v", err)
	}
}

// FuzzPaper: what reads, is written in a way that reads the same.
func FuzzPaper(f *testing.F) {
	f.Add(writePaper(paperKey, []byte("thirty-two bytes, or so it seems")))
	f.Add(codePaper(paperKey, []byte("x")))
	f.Add(paperKey + "\n1 0000\n")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := readPaper(paperKey, text)
		if err != nil {
			return
		}
		for _, again := range []string{writePaper(paperKey, b), codePaper(paperKey, b)} {
			if got, err := readPaper(paperKey, again); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%x is read back as %x, %v", b, got, err)
			}
		}
	})
}
