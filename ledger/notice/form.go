package notice

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
)

// maxText is the length in bytes of the longest line of text in a notice.
const maxText = 1000

// codecJSON is the multicodec of JSON bytes.
const codecJSON = uint64(multicodec.Json)

// timeLayout is RFC 3339 in UTC with whole seconds.
const timeLayout = "2006-01-02T15:04:05Z"

// form is how notices are written: CIDs as plain strings, times as timeLayout.
// The decoder of this package refuses duplicate names and bad UTF-8 by itself.
var form = json.JoinOptions(
	json.RejectUnknownMembers(true),
	json.WithMarshalers(json.JoinMarshalers(
		json.MarshalToFunc(func(e *jsontext.Encoder, c cid.Cid) error {
			return e.WriteToken(jsontext.String(c.String()))
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
			return e.WriteToken(jsontext.String(t.UTC().Format(timeLayout)))
		}),
	)),
	json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFunc(func(b []byte, c *cid.Cid) (err error) {
			var s string
			if err := json.Unmarshal(b, &s); err != nil {
				return err
			}
			*c, err = cid.Decode(s)
			return err
		}),
		json.UnmarshalFunc(func(b []byte, t *time.Time) (err error) {
			var s string
			if err := json.Unmarshal(b, &s); err != nil {
				return err
			}
			*t, err = time.Parse(timeLayout, s)
			return err
		}),
	)),
)

// encode returns the one spelling of v.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v, form)
	if err != nil {
		return nil, malformed("%v", err)
	}
	return b, nil
}

// decode reads v from b and refuses every spelling but that of encode. This
// catches what a decoder lets pass: absent fields, null, 1.0 for 1, needless
// escapes, white space, other spellings of a CID or a time.
func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v, form); err != nil {
		return malformed("%v", err)
	}
	again, err := encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, again) {
		return malformed("not in canonical form, from byte %d on", commonPrefix(b, again))
	}
	return nil
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// decodeBase64 is RFC 4648, section 4, and refuses every spelling but one.
func decodeBase64(field, s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, malformed("%s: %v", field, err)
	}
	if base64.StdEncoding.EncodeToString(b) != s {
		return nil, malformed("%s: base64 not in canonical form", field)
	}
	return b, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// checkRef checks the CID of a notice.
func checkRef(field string, c cid.Cid) error { return checkCID(field, c, codecJSON) }

// checkBlob checks the CID of a UnixFS file or folder.
func checkBlob(field string, c cid.Cid) error { return checkCID(field, c, cid.Raw, cid.DagProtobuf) }

func checkCID(field string, c cid.Cid, codecs ...uint64) error {
	if !c.Defined() {
		return malformed("%s is missing", field)
	}
	p := c.Prefix()
	if p.Version != 1 || p.MhType != multihash.SHA2_256 || p.MhLength != 32 {
		return malformed("%s: %s is not a CIDv1 with sha2-256", field, c)
	}
	for _, codec := range codecs {
		if p.Codec == codec {
			return nil
		}
	}
	return malformed("%s: %s has codec 0x%x, want one of %#x", field, c, p.Codec, codecs)
}

// checkText checks a line of text for people: printable, so that it can do
// nothing to a terminal.
func checkText(field, s string) error {
	if len(s) > maxText {
		return malformed("%s has %d bytes, want at most %d", field, len(s), maxText)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return malformed("%s has characters that cannot be printed: %.80q", field, s)
	}
	return nil
}

// checkLabel checks a text that must not be empty.
func checkLabel(field, s string) error {
	if strings.TrimSpace(s) == "" {
		return malformed("%s is missing", field)
	}
	return checkText(field, s)
}

func checkRange(field string, v, low, high int64) error {
	if v < low || v > high {
		return malformed("%s is %d, want %d to %d", field, v, low, high)
	}
	return nil
}

func checkMeasure(field string, v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || math.Signbit(v) {
		return malformed("%s is %v, want a finite number that is not negative", field, v)
	}
	return nil
}

// checkTime refuses years that RFC 3339 cannot write, and the zero time.
func checkTime(field string, t time.Time) error {
	if t.IsZero() {
		return malformed("%s is missing", field)
	}
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return malformed("%s is in the year %d, want 1 to 9999", field, y)
	}
	return nil
}

// checkAfter compares whole seconds.
func checkAfter(field string, t, than time.Time) error {
	if t.Unix() <= than.Unix() {
		return malformed("%s %s is not later than time %s", field, t.UTC().Format(timeLayout), than.UTC().Format(timeLayout))
	}
	return nil
}
