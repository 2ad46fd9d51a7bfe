package train

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Skipped counts what a source holds that is not trained on: files, records, and pieces of files.
type Skipped struct {
	NotText   int `json:"not_text"`  // binary, or not UTF-8
	Empty     int `json:"empty"`     // or nothing but spaces
	TooLong   int `json:"too_long"`  // records of more than a megabyte
	Malformed int `json:"malformed"` // records that are no JSON object with a text
	Duplicate int `json:"duplicate"` // of a document before
	Broken    int `json:"broken"`    // files that cannot be unpacked from some point on: what came before is not skipped

	NoField int    `json:"no_field,omitempty"` // that belong to no unit, since they lack Field
	Field   string `json:"field,omitempty"`
}

// Total is the sum of all.
func (s Skipped) Total() int {
	return s.NotText + s.Empty + s.TooLong + s.Malformed + s.Duplicate + s.Broken + s.NoField
}

// String says what was skipped, for people.
func (s Skipped) String() string {
	var all []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{s.NotText, "not UTF-8 text"}, {s.Empty, "empty"}, {s.TooLong, "lines of more than a megabyte"}, {s.Malformed, "not JSON with a text"},
		{s.Duplicate, "there before"}, {s.Broken, "files that break off or are not gzip"}, {s.NoField, fmt.Sprintf("without a %q that is a string or a whole number", s.Field)},
	} {
		if c.n > 0 {
			all = append(all, fmt.Sprint(c.n, " ", c.what))
		}
	}
	if all == nil {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// text reports whether a text can be used, and otherwise counts it.
func (s *Skipped) text(text string) bool {
	switch {
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		s.NotText++
	case strings.TrimSpace(text) == "":
		s.Empty++
	default:
		return true
	}
	return false
}

func usable(text string) bool { return new(Skipped).text(text) }
