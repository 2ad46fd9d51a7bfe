package train

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
)

// Tokens is a corpus as one run of token ids: document after document, each ended by the
// end-of-text token. It is in memory, or where [Prepare] made it, in a file.
type Tokens struct {
	IDs   []int32 // nil if they are in a file
	Bytes int64   // of text

	file io.ReaderAt // ids of four bytes, the lowest first
	n    int         // of them in file
	sum  string      // digest of file
}

// Len returns how many tokens there are.
func (t *Tokens) Len() int {
	if t.file != nil {
		return t.n
	}
	return len(t.IDs)
}

// Encode turns documents into a run of tokens. It stops after the document that makes it limit
// tokens long; limit 0 takes all.
func Encode(docs []string, encode func(string) []int, eos, limit int) *Tokens {
	t := new(Tokens)
	for _, d := range docs {
		if limit > 0 && len(t.IDs) >= limit {
			break
		}
		for _, id := range append(encode(d), eos) {
			t.IDs = append(t.IDs, int32(id))
		}
		t.Bytes += int64(len(d))
	}
	return t
}

// read stores in dst the tokens from at on, beginning anew after the last.
func (t *Tokens) read(dst []int32, at int) error {
	for len(dst) > 0 {
		at %= t.Len()
		n := min(len(dst), t.Len()-at)
		if t.file == nil {
			copy(dst[:n], t.IDs[at:])
		} else {
			b := make([]byte, tokenBytes*n)
			if _, err := t.file.ReadAt(b, int64(at)*tokenBytes); err != nil {
				return fmt.Errorf("the tokens of the text: %w", err)
			}
			for i := range n {
				dst[i] = int32(binary.LittleEndian.Uint32(b[tokenBytes*i:]))
			}
		}
		dst, at = dst[n:], at+n
	}
	return nil
}

const tokenBytes = 4

func appendTokens(b []byte, ids ...int32) []byte {
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return b
}

// digest identifies the ids, wherever they are.
func (t *Tokens) digest() string {
	if t.file != nil {
		return t.sum
	}
	h := sha256.New()
	var b []byte
	for ids := t.IDs; len(ids) > 0; {
		n := min(len(ids), 1<<12)
		b = appendTokens(b[:0], ids[:n]...)
		h.Write(b)
		ids = ids[n:]
	}
	return hex.EncodeToString(h.Sum(nil))
}

// bitsPerByte turns a loss per token, in nats, into bits per byte of text; it is 0 if the bytes of t are not known.
func (t *Tokens) bitsPerByte(loss float64) float64 {
	if t.Bytes == 0 {
		return 0
	}
	return loss / math.Ln2 * float64(t.Len()) / float64(t.Bytes)
}
