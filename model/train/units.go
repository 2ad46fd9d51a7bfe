package train

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Units are the text of some domain in the units that private training protects: what it releases hardly depends on whether any
// one of them was there. Which unit a text belongs to, whether it is trained on or held out and what is kept of it depend
// on that unit alone, so that one unit more changes nothing about the others; that is why they are read otherwise than a [Corpus].
type Units struct {
	Unit           string // "document", or "field:" and the name of a field that each record has
	Train, Heldout []Unit
	Skipped        Skipped // of which Duplicate counts what a unit has twice: what several units have is each one's
}

// A Unit is the documents of one.
type Unit struct{ Documents []string }

// ByDocument and the prefix ByField are what [Units] may be. A document is a record or a file; two of the same text are one.
const (
	ByDocument = "document"
	ByField    = "field:"
)

// ErrFewUnits is returned, wrapped, where there are units, and all of them would be trained on or all held out.
var ErrFewUnits = errors.New("too few units")

// Limits of what is read as units.
const (
	maxField     = 64
	maxUnitsText = 1 << 30 // bytes of all of them
)

// ReadUnits reads a source whole, whatever its limit, in units: the documents, or the records that share the value, a string or
// a whole number, of a field of a .jsonl or .jsonl.gz file, in which every record needs it that is not to be skipped. About one
// unit in ten is held out, chosen by what it is. Each text in s.Also is a unit that is trained on.
func ReadUnits(unit string, s Source) (*Units, error) {
	field, byField := strings.CutPrefix(unit, ByField)
	if byField && (field == "" || len(field) > maxField) || !byField && unit != ByDocument {
		return nil, fmt.Errorf("unit %q: expected %q, or %q and the name of a field", unit, ByDocument, ByField)
	}
	if !byField {
		field = ""
	}
	u := &Units{Unit: unit, Skipped: Skipped{Field: field}}
	units, total := make(map[string]map[string]bool), 0
	take := func(key, text string) error {
		if units[key][text] {
			u.Skipped.Duplicate++
			return nil
		}
		if total += len(text); total > maxUnitsText {
			return fmt.Errorf("%s: more than %d MB of text: part of it cannot be taken without looking at the rest, so split it by unit", strings.Join(s.Paths, ", "), maxUnitsText>>20)
		}
		if units[key] == nil {
			units[key] = make(map[string]bool)
		}
		units[key][text] = true
		return nil
	}
	record := func(line []byte) error {
		key, text, ok := unitOf(line, field, &u.Skipped)
		if !ok {
			return nil
		}
		return take(key, text)
	}
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		err := readFile(f.path, nil, &u.Skipped, func(r io.Reader) error {
			if isRecords(f.path) {
				return eachRecord(r, &u.Skipped, record)
			}
			b, err := io.ReadAll(io.LimitReader(r, maxUnitsText+1))
			switch text := string(b); {
			case err != nil || len(b) <= maxUnitsText && !u.Skipped.text(text):
				return err
			case byField:
				u.Skipped.NoField++
				return nil
			default:
				return take(digest(text), text)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(units), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
	}) {
		docs := Unit{slices.Sorted(maps.Keys(units[key]))}
		if rank(key)%10 == 0 {
			u.Heldout = append(u.Heldout, docs)
		} else {
			u.Train = append(u.Train, docs)
		}
	}
	for i, d := range s.Also {
		if !slices.Contains(s.Also[:i], d) {
			u.Train = append(u.Train, Unit{[]string{d}})
		}
	}
	if len(u.Train) == 0 || len(u.Heldout) == 0 {
		err := fmt.Errorf("%w for training and for holding out", ErrNoText)
		if n := len(units); n > 0 {
			err = fmt.Errorf("%w: %d, of which some are trained on and about one in ten is held out", ErrFewUnits, n)
		}
		return nil, fmt.Errorf("%s: %w (skipped: %v)", strings.Join(s.Paths, ", "), err, u.Skipped)
	}
	return u, nil
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// unitOf returns the text of a record and the key of the unit that it belongs to: the value of the field, or without one a digest
// of the text. Spellings of one value are one unit. A record without either is counted.
func unitOf(line []byte, field string, skipped *Skipped) (key, text string, ok bool) {
	var fields map[string]json.RawMessage
	var has *string
	if json.Unmarshal(line, &fields) != nil || json.Unmarshal(fields["text"], &has) != nil || has == nil {
		skipped.Malformed++
		return "", "", false
	}
	switch text = *has; {
	case !skipped.text(text):
		return "", "", false
	case field == "":
		return digest(text), text, true
	}
	value := fields[field]
	if json.Unmarshal(value, &key) != nil { // no string
		var number json.Number
		if json.Unmarshal(value, &number) == nil && !strings.ContainsAny(number.String(), ".eE") {
			key = number.String()
		}
	}
	if key = strings.TrimSpace(key); key == "" {
		skipped.NoField++
		return "", "", false
	}
	return key, text, true
}

// EncodeUnits turns each unit into a run of tokens: document after document, each ended by the end-of-text token.
func EncodeUnits(units []Unit, encode func(string) []int, eos int) []*Tokens {
	var out []*Tokens
	for _, u := range units {
		out = append(out, Encode(u.Documents, encode, eos, 0))
	}
	return out
}
