package train

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// textFolder makes a folder of those files.
func textFolder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// all returns the documents of units, sorted, each unit's joined by "|".
func all(units ...[]Unit) (out []string) {
	for _, us := range units {
		for _, u := range us {
			out = append(out, strings.Join(u.Documents, "|"))
		}
	}
	slices.Sort(out)
	return out
}

func lines(n int, line func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(line(i) + "\n")
	}
	return b.String()
}

func TestUnitsAreTheRecordsOfOneValue(t *testing.T) {
	dir := textFolder(t, map[string]string{
		"a.jsonl": lines(300, func(i int) string { return fmt.Sprintf(`{"text":"a %d","patient":%d}`, i, i%50) }),
		"b.jsonl": lines(50, func(i int) string { return fmt.Sprintf(`{"patient":" %d ","text":"b %d"}`, i, i) }) +
			lines(50, func(i int) string { return fmt.Sprintf(`{"patient":%d,"text":"b %d"}`, i, i) }), // once more
		"bad.jsonl": strings.Join([]string{
			`{"text":"no patient"}`, `{"text":"x","patient":""}`, `{"text":"x","patient":null}`, `{"text":"x","patient":1.0}`, `{"text":"x","patient":1e0}`,
			`{"text":"x","patient":["1"]}`, `{"text":"x","patient":true}`, `{"text":"x","Patient":"1"}`, `{"text":"","patient":"1"}`, `{"patient":"1"}`,
			`{"text":7,"patient":"1"}`, `not json`, "{\"text\":\"\xff\",\"patient\":\"1\"}", `[]`, `null`,
		}, "\n"),
		"notes.txt": "of nobody",
	})
	u, err := ReadUnits("field:patient", Source{Paths: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Train)+len(u.Heldout) != 50 || len(u.Heldout) == 0 || len(u.Heldout) > 15 || u.Skipped != (Skipped{NotText: 1, Empty: 1, Malformed: 5, Duplicate: 50, NoField: 9, Field: "patient"}) {
		t.Errorf("%d and %d units, skipped are %v", len(u.Train), len(u.Heldout), u.Skipped)
	}
	for _, unit := range append(u.Train, u.Heldout...) {
		var patient int
		if _, err := fmt.Sscanf(unit.Documents[len(unit.Documents)-1], "b %d", &patient); err != nil || len(unit.Documents) != 7 {
			t.Fatalf("%q", unit.Documents)
		}
		for _, d := range unit.Documents[:6] {
			var i int
			if fmt.Sscanf(d, "a %d", &i); i%50 != patient {
				t.Errorf("%q is of patient %d", d, patient)
			}
		}
	}
}

func TestUnitsAreDocuments(t *testing.T) {
	dir := textFolder(t, map[string]string{
		"a.jsonl": lines(100, func(i int) string { return fmt.Sprintf(`{"text":"record %d"}`, i%80) }), // twenty come twice
		"one.txt": strings.Repeat("a long file is one document. ", 50_000), "two.md": "two",
		"no.bin": "not looked for", "bad.txt": "\xff\xfe",
	})
	u, err := ReadUnits(ByDocument, Source{Paths: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(u.Train) + len(u.Heldout); n != 82 || u.Skipped != (Skipped{NotText: 1, Duplicate: 20}) {
		t.Errorf("%d units, skipped are %v", n, u.Skipped)
	}
}

// One unit less changes no other: neither what it has, nor whether it is held out.
func TestUnitsDoNotDependOnEachOther(t *testing.T) {
	line := func(i int) string { return fmt.Sprintf(`{"text":"text %d of %s","who":"w%d"}`, i, "all", i%30) }
	read := func(unit string, without int) *Units {
		dir := textFolder(t, map[string]string{"a.jsonl": lines(120, func(i int) string {
			if i%30 == without {
				return ""
			}
			return line(i)
		})})
		u, err := ReadUnits(unit, Source{Paths: []string{dir}, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for unit, gone := range map[string]int{"field:who": 1, ByDocument: 4} {
		whole := read(unit, -1)
		for without := range 30 {
			less := read(unit, without)
			for name, of := range map[string]func(*Units) []Unit{
				"trained on": func(u *Units) []Unit { return u.Train }, "held out": func(u *Units) []Unit { return u.Heldout },
			} {
				left := all(of(less))
				for _, u := range left {
					if !slices.Contains(all(of(whole)), u) {
						t.Errorf("%s, without %d: %q is %s", unit, without, u, name)
					}
				}
			}
			if a, b := all(whole.Train, whole.Heldout), all(less.Train, less.Heldout); len(a)-len(b) != gone {
				t.Errorf("%s, without %d: %d units of %d are left", unit, without, len(b), len(a))
			}
		}
	}
}

func TestUnitsThatCannotBeAreRefused(t *testing.T) {
	dir := textFolder(t, map[string]string{"a.jsonl": lines(100, func(i int) string { return fmt.Sprintf(`{"text":"%d","id":%d}`, i, i) })})
	for _, unit := range []string{"", "window", "field:", "field", "documents", "field:" + strings.Repeat("x", 65)} {
		if _, err := ReadUnits(unit, Source{Paths: []string{dir}}); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("unit %q: %v", unit, err)
		}
	}
	if _, err := ReadUnits("field:other", Source{Paths: []string{dir}}); !errors.Is(err, ErrNoText) {
		t.Errorf("records without the field: %v", err)
	}
	one := textFolder(t, map[string]string{"a.txt": "all there is"})
	if _, err := ReadUnits(ByDocument, Source{Paths: []string{one}}); !errors.Is(err, ErrFewUnits) || errors.Is(err, ErrNoText) || !strings.Contains(err.Error(), "too few units: 1,") {
		t.Errorf("one unit: %v", err)
	}
	if _, err := ReadUnits(ByDocument, Source{Paths: []string{filepath.Join(dir, "nowhere")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// FuzzRecordUnit: a record of a unit has a text and names its unit, whatever the field.
func FuzzRecordUnit(f *testing.F) {
	for _, line := range []string{
		`{"text":"a","id":"x"}`, `{"text":"a","id":17}`, `{"text":"a","id":-0}`, `{"text":"a","id":1.5}`, `{"text":"a","id":null}`, `{"text":null,"id":"x"}`,
		`{"text":"a","id":" \t"}`, `{"text":"a","text":"b","id":"x"}`, `{}`, `[]`, ``, `{"text":"a"`, "\xff",
	} {
		f.Add([]byte(line), "id")
		f.Add([]byte(line), "")
	}
	f.Fuzz(func(t *testing.T, line []byte, field string) {
		var skipped Skipped
		key, _, ok := unitOf(line, field, &skipped)
		if ok && (key == "" || key != strings.TrimSpace(key)) || !ok && key != "" || ok != (skipped.Total() == 0) {
			t.Errorf("%q: unit %q, %v, and skipped are %v", line, key, ok, skipped)
		}
		if again, _, same := unitOf(line, field, &skipped); again != key || same != ok {
			t.Errorf("%q: unit %q and then %q", line, key, again)
		}
	})
}
