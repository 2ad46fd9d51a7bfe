package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	lengthSize   = 8 // the header's length, little-endian, before the header
	minFile      = lengthSize + len("{}")
	metadataName = "__metadata__"
)

// Parse reads a safetensors file that is in memory. The tensors' Data are
// parts of b, which must not change afterwards. Parse allocates in proportion
// to the header's length, which it first compares with len(b) and [MaxHeader].
func Parse(b []byte) (*File, error) {
	if len(b) < minFile {
		return nil, malformed("%d bytes long, at least %d are needed", len(b), minFile)
	}
	n := binary.LittleEndian.Uint64(b)
	if n > MaxHeader {
		return nil, malformed("header of %d bytes, at most %d are allowed", n, MaxHeader)
	}
	if n > uint64(len(b)-lengthSize) {
		return nil, malformed("header of %d bytes in a file of %d", n, len(b))
	}
	if n < uint64(len("{}")) {
		return nil, malformed("header of %d bytes, at least 2 are needed", n)
	}
	header, data := b[lengthSize:lengthSize+n:lengthSize+n], b[lengthSize+n:]

	p := parser{dec: jsontext.NewDecoder(bytes.NewBuffer(header)), header: header}
	if err := p.parseHeader(); err != nil {
		return nil, err
	}
	f := &File{
		tensors:  make([]Tensor, len(p.entries)),
		index:    make(map[string]int, len(p.entries)),
		metadata: p.metadata,
	}

	// In the order of their ranges, each tensor begins where the one before it
	// ends, the first at 0 and the last at the end of the file: no gap, no
	// overlap, no byte that belongs to nobody.
	slices.SortFunc(p.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	end := 0
	for i, e := range p.entries {
		size, err := checkTensor(e.name, e.dtype, e.shape)
		if err != nil {
			return nil, err
		}
		if e.begin != end {
			return nil, malformed("tensor %q: its data begins at %d, expected %d, where the tensor before it ends", e.name, e.begin, end)
		}
		if e.end < e.begin || e.end > len(data) {
			return nil, malformed("tensor %q: data_offsets [%d, %d] in %d bytes of data", e.name, e.begin, e.end, len(data))
		}
		if e.end-e.begin != size {
			return nil, malformed("tensor %q: %d bytes of data, expected %d for %s %v", e.name, e.end-e.begin, size, e.dtype, e.shape)
		}
		end = e.end
		f.tensors[i] = Tensor{Name: e.name, DType: e.dtype, Shape: e.shape, Data: data[e.begin:e.end:e.end]}
		f.index[e.name] = i
	}
	if end != len(data) {
		return nil, malformed("%d bytes after the last tensor", len(data)-end)
	}
	return f, nil
}

// entry is one tensor as the header describes it, nothing of it checked yet
// but that it is spelled well.
type entry struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int
}

// parser walks the header token by token. The decoder refuses bad UTF-8 and
// duplicate names; everything else that the grammar below does not name is
// refused here.
type parser struct {
	dec      *jsontext.Decoder
	header   []byte
	entries  []entry
	metadata map[string]string
}

func (p *parser) parseHeader() error {
	if p.header[0] != '{' {
		return malformed("header begins with %q, expected '{'", p.header[0])
	}
	if err := p.expect('{', "header"); err != nil {
		return err
	}
	for p.dec.PeekKind() != '}' {
		name, err := p.text("tensor name")
		if err != nil {
			return err
		}
		if name == metadataName {
			err = p.parseMetadata()
		} else {
			err = p.parseEntry(name)
		}
		if err != nil {
			return err
		}
	}
	if err := p.expect('}', "header"); err != nil {
		return err
	}
	if rest := p.header[p.dec.InputOffset():]; len(bytes.TrimLeft(rest, " ")) != 0 {
		return malformed("header has something other than spaces after its JSON object")
	}
	return nil
}

func (p *parser) parseMetadata() error {
	if err := p.expect('{', metadataName); err != nil {
		return err
	}
	p.metadata = make(map[string]string)
	for p.dec.PeekKind() != '}' {
		key, err := p.text(metadataName)
		if err != nil {
			return err
		}
		if p.metadata[key], err = p.text(metadataName); err != nil {
			return err
		}
	}
	return p.expect('}', metadataName)
}

func (p *parser) parseEntry(name string) error {
	where := "tensor " + strconv.Quote(name)
	if err := p.expect('{', where); err != nil {
		return err
	}
	e := entry{name: name}
	fields := 0 // no key comes twice, so three known keys are all three
	for ; p.dec.PeekKind() != '}'; fields++ {
		key, err := p.text(where)
		if err != nil {
			return err
		}
		switch key {
		case "dtype":
			var s string
			s, err = p.text(where)
			e.dtype = DType(s)
		case "shape":
			e.shape, err = p.integers(where, MaxRank)
		case "data_offsets":
			var o []int
			if o, err = p.integers(where, 2); err == nil && len(o) != 2 {
				err = malformed("%s: data_offsets has %d numbers, expected 2", where, len(o))
			}
			if err == nil {
				e.begin, e.end = o[0], o[1]
			}
		default:
			err = malformed("%s: unknown key %q, expected dtype, shape, data_offsets", where, key)
		}
		if err != nil {
			return err
		}
	}
	if fields != 3 {
		return malformed("%s: expected dtype, shape and data_offsets", where)
	}
	p.entries = append(p.entries, e)
	return p.expect('}', where)
}

// expect consumes a token of that kind.
func (p *parser) expect(kind jsontext.Kind, where string) error {
	tok, err := p.dec.ReadToken()
	if err != nil {
		return malformed("%s: %v", where, err)
	}
	if tok.Kind() != kind {
		return malformed("%s: found %v at byte %d, expected %v", where, tok.Kind(), p.dec.InputOffset(), kind)
	}
	return nil
}

func (p *parser) text(where string) (string, error) {
	tok, err := p.dec.ReadToken()
	if err != nil {
		return "", malformed("%s: %v", where, err)
	}
	if tok.Kind() != '"' {
		return "", malformed("%s: found %v at byte %d, expected a string", where, tok.Kind(), p.dec.InputOffset())
	}
	return tok.String(), nil
}

// integers reads an array of at most limit numbers, each written in decimal
// digits alone: no sign, fraction or exponent.
func (p *parser) integers(where string, limit int) ([]int, error) {
	if err := p.expect('[', where); err != nil {
		return nil, err
	}
	v := make([]int, 0, 2)
	for p.dec.PeekKind() != ']' {
		raw, err := p.dec.ReadValue()
		if err != nil {
			return nil, malformed("%s: %v", where, err)
		}
		n, err := strconv.ParseUint(string(raw), 10, strconv.IntSize-1)
		if err != nil {
			return nil, malformed("%s: %.40q is not a whole number from 0 to %d", where, raw, maxInt)
		}
		if len(v) == limit {
			return nil, malformed("%s: more than %d numbers in an array", where, limit)
		}
		v = append(v, int(n))
	}
	return v, p.expect(']', where)
}
