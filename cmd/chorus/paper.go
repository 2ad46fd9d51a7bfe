package main

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What is kept on paper is typed in again by people: in Crockford's base32, which has no I, L, O and U, in lines of four groups
// of four. A line has its number before it and four characters after it that say whether it is as it was, so that a
// slip is found in the line where it was made. The lines as they are:
//
//	1  7Z4K 0J2M 9XQ1 V5TB  3F8C
//
// Other lines are for people. What a QR code holds is one line: the kind of paper, a colon, and all characters.

// The kinds of paper.
const (
	paperKey       = "CHORUS-KEY"     // a private key
	paperPresigned = "CHORUS-REVOKES" // revocations that are signed
)

const (
	paperLine  = 10 // bytes
	paperGroup = 4  // characters
	maxPaper   = 1 << 20
	maxLines   = 2000
)

var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// paperSum is what the whole of a paper ends with.
func paperSum(kind string, b []byte) []byte {
	sum := sha256.Sum256(append([]byte(kind+"\n"), b...))
	return sum[:4]
}

// lineSum is the 20 bits that a line ends with.
func lineSum(kind string, number int, b []byte) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", kind, number, b))
	return crockford.EncodeToString(sum[:])[:paperGroup]
}

// writePaper returns b in lines to keep on paper, the first of which names the kind.
func writePaper(kind string, b []byte) string {
	b = append(b[:len(b):len(b)], paperSum(kind, b)...)
	var w strings.Builder
	fmt.Fprintln(&w, kind)
	for i := 0; i*paperLine < len(b); i++ {
		line := b[i*paperLine : min((i+1)*paperLine, len(b))]
		text := crockford.EncodeToString(line)
		fmt.Fprintf(&w, "%3d ", i+1)
		for j := 0; j < len(text); j += paperGroup {
			fmt.Fprintf(&w, " %s", text[j:min(j+paperGroup, len(text))])
		}
		fmt.Fprintf(&w, "  %s\n", lineSum(kind, i+1, line))
	}
	return w.String()
}

// codePaper returns b in the one line that a QR code holds.
func codePaper(kind string, b []byte) string {
	b = append(b[:len(b):len(b)], paperSum(kind, b)...)
	return kind + ":" + crockford.EncodeToString(b)
}

var errPaper = errors.New("this is not what was printed")

// likeness is what is taken for what: digits and letters that people mix up, and small letters.
var likeness = strings.NewReplacer("O", "0", "I", "1", "L", "1", "-", "")

// decodeGroups reads characters in one spelling of the bytes that they stand for.
func decodeGroups(text string) ([]byte, error) {
	b, err := crockford.DecodeString(text)
	if err != nil || crockford.EncodeToString(b) != text {
		return nil, errPaper
	}
	return b, nil
}

// readPaper reads what writePaper or codePaper wrote, as somebody typed or scanned it. Nothing is read of lines that do not belong.
// The error names the line with the slip.
func readPaper(kind, text string) ([]byte, error) {
	if len(text) > maxPaper {
		return nil, fmt.Errorf("%w: %d characters", errPaper, len(text))
	}
	var b []byte
	next, found := 1, false
	for line := range strings.Lines(text) {
		line = strings.ToUpper(strings.TrimSpace(line))
		if code, ok := strings.CutPrefix(line, kind+":"); ok {
			all, err := decodeGroups(likeness.Replace(strings.Join(strings.Fields(code), "")))
			if err != nil {
				return nil, fmt.Errorf("%w: the code has a character that does not belong, or lacks some", errPaper)
			}
			return wholePaper(kind, all)
		}
		fields := strings.Fields(line)
		switch {
		case line == kind:
			found = true
			continue
		case !found || len(fields) == 0 || strings.HasPrefix(line, "#"):
			continue
		}
		number, err := strconv.Atoi(strings.TrimRight(fields[0], ".:"))
		if err != nil || number != next || number > maxLines {
			return nil, fmt.Errorf("%w: line %d should be here, and not %.40q", errPaper, next, line)
		}
		groups := likeness.Replace(strings.Join(fields[1:], ""))
		if len(groups) <= paperGroup {
			return nil, fmt.Errorf("%w: line %d is cut short", errPaper, next)
		}
		end := len(groups) - paperGroup
		bytes, err := decodeGroups(groups[:end])
		if err != nil || len(bytes) > paperLine || lineSum(kind, next, bytes) != groups[end:] {
			return nil, fmt.Errorf("%w: there is a slip in line %d", errPaper, next)
		}
		b = append(b, bytes...)
		next++
	}
	if !found {
		return nil, fmt.Errorf("%w: it should begin with the line %s", errPaper, kind)
	}
	return wholePaper(kind, b)
}

// wholePaper takes off the sum of the whole.
func wholePaper(kind string, b []byte) ([]byte, error) {
	end := len(b) - 4
	if end < 0 || binary.BigEndian.Uint32(b[end:]) != binary.BigEndian.Uint32(paperSum(kind, b[:end])) {
		return nil, fmt.Errorf("%w: lines are missing at the end", errPaper)
	}
	return b[:end], nil
}
