package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// build puts a file together from its two parts.
func build(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func marshal(t testing.TB, tensors []Tensor, metadata map[string]string) []byte {
	t.Helper()
	header, order, err := encodeHeader(tensors, metadata)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeTo(&b, header, order); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The values that testdata/generate.py gave to the reference implementation.
var (
	referenceTensors = []Tensor{
		FromFloat32("a", BF16, []int{3, 1}, []float32{1, -0.15625, float32(math.Inf(1))}),
		FromFloat32("empty", F16, []int{2, 0, 4}, nil),
		FromFloat32("half", F16, []int{2, 2}, []float32{0.5, -65504, 0x1p-24, 0}),
		FromFloat32("model.norm.weight", F32, []int{3}, []float32{1.5, -2.25, 3e-5}),
		FromFloat32("zz", F32, []int{}, []float32{7}),
		FromFloat32("é \"quoted\"\n\u2028", BF16, []int{1, 1, 1}, []float32{3}),
	}
	referenceMetadata = map[string]string{"format": "chorus/test <&> é"}
)

func equal(a, b Tensor) bool {
	return a.Name == b.Name && a.DType == b.DType && slices.Equal(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data)
}

func TestReadsWhatTheReferenceWrites(t *testing.T) {
	f, err := Open("testdata/reference.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for _, want := range referenceTensors {
		names = append(names, want.Name)
		if got, ok := f.Tensor(want.Name); !ok || !equal(got, want) {
			t.Errorf("tensor %q is %v, want %v", want.Name, got, want)
		}
	}
	if got := f.Names(); !slices.Equal(got, names) {
		t.Errorf("names %q, want %q", got, names)
	}
	if got := f.Metadata(); len(got) != 1 || got["format"] != referenceMetadata["format"] {
		t.Errorf("metadata %q", got)
	}
	if _, ok := f.Tensor("b"); ok {
		t.Error("there is a tensor b")
	}
}

func TestWritesWhatTheReferenceWrites(t *testing.T) {
	want, err := os.ReadFile("testdata/reference.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	shuffled := slices.Clone(referenceTensors)
	for i := range 10 {
		path := filepath.Join(t.TempDir(), "f.safetensors")
		if err := Write(path, shuffled, referenceMetadata); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got\n%q\nwant\n%q", got, want)
		}
		rand.New(rand.NewPCG(1, uint64(i))).Shuffle(len(shuffled), func(i, j int) {
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		})
	}
}

func TestMetadataOrderDoesNotChangeTheBytes(t *testing.T) {
	m := map[string]string{"b": "1", "a": "2", "c": "3", "e": "", "d": "4"}
	want := marshal(t, nil, m)
	for range 20 {
		if got := marshal(t, nil, m); !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestEveryTensorIsAligned(t *testing.T) {
	b := marshal(t, []Tensor{
		FromFloat32("a", BF16, []int{3}, []float32{1, 2, 3}),
		FromFloat32("b", F32, []int{1}, []float32{4}),
		FromFloat32("c", F16, []int{1}, []float32{5}),
	}, nil)
	if n := binary.LittleEndian.Uint64(b); n%headerAlign != 0 {
		t.Errorf("header of %d bytes", n)
	}
	f, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for x := range f.Tensors() {
		if at := bytes.LastIndex(b, x.Data); at%x.DType.Size() != 0 {
			t.Errorf("tensor %q at byte %d", x.Name, at)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	for name, b := range map[string][]byte{
		"no tensor":              build(`{}`),
		"no tensor, padded":      build(`{}      `),
		"empty metadata":         build(`{"__metadata__":{}}`),
		"keys in another order":  build(`{"a":{"data_offsets":[0,2],"shape":[1],"dtype":"F16"}}`, 0, 0),
		"an odd header length":   build(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]} }`, 0, 0, 0, 0),
		"empty tensors in front": build(`{"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"z":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}`, 0, 0),
		"tensors out of order":   build(`{"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]},"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}`, 0, 0, 0, 0),
		"escapes":                build(`{"\u0061\n":{"dtype":"F\u00316","shape":[0],"data_offsets":[0,0]}}`),
	} {
		if _, err := Parse(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	one := func(dtype, shape, offsets string) []byte {
		return build(fmt.Sprintf(`{"a":{"dtype":"%s","shape":%s,"data_offsets":%s}}`, dtype, shape, offsets), 0, 0, 0, 0)
	}
	for _, c := range []struct {
		name string
		b    []byte
		say  string
	}{
		{"nothing", nil, "0 bytes"},
		{"a length alone", build(``), "8 bytes"},
		{"a header of one byte", append(build(`{`), 0), "at least 2"},
		{"a header past the end", append(binary.LittleEndian.AppendUint64(nil, 3), "{}"...), "header of 3 bytes"},
		{"a header over the limit", append(binary.LittleEndian.AppendUint64(nil, MaxHeader+1), "{}"...), "at most"},
		{"a header of 2^64-1 bytes", append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "{}"...), "at most"},
		{"no object", build(`[]`), "begins with"},
		{"space before the object", build(` {}`), "begins with"},
		{"a byte order mark", build("\ufeff{}"), "begins with"},
		{"two objects", build(`{}{}`), "after its JSON object"},
		{"a newline as padding", build("{}\n"), "after its JSON object"},
		{"zeros as padding", build("{}\x00"), "after its JSON object"},
		{"an open object", build(`{"a":`), "tensor \"a\""},
		{"a comma too many", build(`{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},}`), "tensor name"},
		{"a name that is not UTF-8", build("{\"\xff\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,0]}}"), "UTF-8"},
		{"half a surrogate pair", build(`{"\ud800":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}`), "tensor name"},
		{"a name twice", build(`{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}`), "duplicate"},
		{"a name twice, once escaped", build(`{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}`), "duplicate"},
		{"a key twice", build(`{"a":{"dtype":"F16","dtype":"F16","shape":[0],"data_offsets":[0,0]}}`), "duplicate"},
		{"metadata twice", build(`{"__metadata__":{},"__metadata__":{}}`), "duplicate"},
		{"a metadata key twice", build(`{"__metadata__":{"a":"","a":""}}`), "duplicate"},
		{"metadata that is no object", build(`{"__metadata__":null}`), "__metadata__"},
		{"metadata that is no text", build(`{"__metadata__":{"a":1}}`), "expected a string"},
		{"a tensor that is no object", build(`{"a":null}`), "tensor \"a\""},
		{"an unknown key", build(`{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0],"x":1}}`), "unknown key"},
		{"a key in capitals", build(`{"a":{"DType":"F16","shape":[0],"data_offsets":[0,0]}}`), "unknown key"},
		{"no dtype", build(`{"a":{"shape":[0],"data_offsets":[0,0]}}`), "expected dtype"},
		{"no shape", build(`{"a":{"dtype":"F16","data_offsets":[0,0]}}`), "expected dtype"},
		{"no offsets", build(`{"a":{"dtype":"F16","shape":[0]}}`), "expected dtype"},
		{"another dtype", one("F64", "[]", "[0,4]"), "F64"},
		{"a dtype in lower case", one("f32", "[]", "[0,4]"), "f32"},
		{"a shape that is no array", one("F32", "1", "[0,4]"), "tensor \"a\""},
		{"a negative dimension", one("F32", "[-1]", "[0,4]"), "whole number"},
		{"a fraction", one("F32", "[1.0]", "[0,4]"), "whole number"},
		{"an exponent", one("F32", "[1e0]", "[0,4]"), "whole number"},
		{"minus zero", one("F32", "[-0]", "[0,4]"), "whole number"},
		{"a leading zero", one("F32", "[01]", "[0,4]"), "tensor \"a\""},
		{"a dimension of 2^63", one("F32", "[9223372036854775808]", "[0,4]"), "whole number"},
		{"a dimension as text", one("F32", `["1"]`, "[0,4]"), "whole number"},
		{"a nested shape", one("F32", `[[1]]`, "[0,4]"), "whole number"},
		{"nine dimensions", one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "more than 8"},
		{"a product of 2^64", one("F32", "[4294967296,4294967296]", "[0,4]"), "addressed"},
		{"a product of 2^64+1 elements", one("F32", "[641,6700417,4294967297]", "[0,4]"), "addressed"},
		{"a product that is 0 only by a 0", one("F32", "[0,4294967296,4294967296]", "[0,0]"), "addressed"},
		{"one offset", one("F32", "[]", "[0]"), "1 numbers"},
		{"three offsets", one("F32", "[]", "[0,4,4]"), "more than 2"},
		{"offsets in the wrong order", one("F32", "[]", "[4,0]"), "begins at 4"},
		{"an end before the begin", build(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[0],"data_offsets":[2,0]}}`, 0, 0), "data_offsets [2, 0]"},
		{"a range too short", one("F32", "[]", "[0,3]"), "expected 4"},
		{"a range too long", one("F16", "[]", "[0,4]"), "expected 2"},
		{"a range past the end", one("F32", "[2]", "[0,8]"), "in 4 bytes"},
		{"an offset of 2^63-1", one("F32", "[2]", "[0,9223372036854775807]"), "in 4 bytes"},
		{"a gap in front", one("F16", "[1]", "[2,4]"), "begins at 2"},
		{"a gap between", build(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]}}`, 0, 0, 0, 0, 0, 0), "begins at 4"},
		{"an overlap", build(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}`, 0, 0, 0, 0, 0, 0), "begins at 2"},
		{"one range for two", build(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}`, 0, 0), "begins at 0"},
		{"bytes left over", one("F16", "[1]", "[0,2]"), "2 bytes after"},
		{"data without tensors", build(`{}`, 0), "1 bytes after"},
	} {
		_, err := Parse(c.b)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(fmt.Sprint(err), c.say) {
			t.Errorf("%s: error %v, want %q saying %q", c.name, err, ErrMalformed, c.say)
		}
	}
}

func TestHostileHeadersAreRefusedBeforeTheyCostMemory(t *testing.T) {
	for name, b := range map[string][]byte{
		"a header of 16 MiB claimed": append(binary.LittleEndian.AppendUint64(nil, MaxHeader), make([]byte, 4096)...),
		"a tensor of 2^62 bytes":     build(`{"a":{"dtype":"F16","shape":[2305843009213693952],"data_offsets":[0,4611686018427387904]}}`),
		"a long array":               build(`{"a":{"shape":[` + strings.Repeat("1,", 1000) + `1],`),
		"deep nesting":               build(`{"a":{"shape":` + strings.Repeat("[", 4000)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(b)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 256<<10 {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}

	var worst strings.Builder
	for i := 0; worst.Len() < 1<<20; i++ {
		fmt.Fprintf(&worst, `,"%d":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}`, i)
	}
	b := build("{" + worst.String()[1:] + "}")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / uint64(len(b)); got > 32 {
		t.Errorf("%d bytes allocated for each byte of a header of many tensors", got)
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.safetensors")
	if _, err := Open(path); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrMalformed) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrMalformed) {
		t.Errorf("a folder: %v", err)
	}
	for _, b := range [][]byte{nil, []byte("{}"), build(`{"a":1}`)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v, want %q with the path", b, err, ErrMalformed)
		}
	}
}

func TestCloseTwice(t *testing.T) {
	f, err := Open("testdata/reference.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := f.Tensor("a"); ok || len(f.Names()) != 0 {
		t.Error("a closed file has tensors")
	}
}

func TestWriteRefusesAndLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.safetensors")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	two := make([]byte, 2)
	for name, c := range map[string]struct {
		tensors  []Tensor
		metadata map[string]string
	}{
		"too few bytes":      {[]Tensor{{Name: "a", DType: F32, Shape: []int{1}, Data: two}}, nil},
		"too many bytes":     {[]Tensor{{Name: "a", DType: F16, Shape: []int{0}, Data: two}}, nil},
		"values for a shape": {[]Tensor{FromFloat32("a", BF16, []int{3}, []float32{1, 2})}, nil},
		"an unknown dtype":   {[]Tensor{FromFloat32("a", "I8", []int{1}, []float32{1})}, nil},
		"a negative shape":   {[]Tensor{{Name: "a", DType: F16, Shape: []int{-1}, Data: two}}, nil},
		"a huge shape":       {[]Tensor{{Name: "a", DType: F16, Shape: []int{math.MaxInt, 2}}}, nil},
		"nine dimensions":    {[]Tensor{{Name: "a", DType: F16, Shape: make([]int, 9)}}, nil},
		"a name twice":       {[]Tensor{{Name: "a", DType: F16, Shape: []int{0}}, {Name: "a", DType: F32, Shape: []int{0}}}, nil},
		"the metadata name":  {[]Tensor{{Name: metadataName, DType: F16, Shape: []int{0}}}, nil},
		"a name not UTF-8":   {[]Tensor{{Name: "\xff", DType: F16, Shape: []int{0}}}, nil},
		"metadata not UTF-8": {nil, map[string]string{"a": "\xff"}},
		"a header too large": {nil, map[string]string{"a": strings.Repeat("x", MaxHeader)}},
	} {
		if err := Write(path, c.tensors, c.metadata); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %q with the path", name, err, ErrMalformed)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(blocked, referenceTensors, nil); err == nil {
		t.Error("a folder was replaced")
	}
	if err := Write(filepath.Join(dir, "none", "f"), nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such folder: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

// FuzzParse: what parses is written and parsed again as the same tensors.
func FuzzParse(f *testing.F) {
	reference, err := os.ReadFile("testdata/reference.safetensors")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(reference)
	f.Add(build(`{}`))
	f.Add(build(`{"__metadata__":{"a":"b"},"a":{"dtype":"F16","shape":[1,0],"data_offsets":[0,0]} }`))
	f.Add(build(`{"b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 1, 2, 3, 4, 5, 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		var tensors []Tensor
		bytesOf := 0
		for x := range first.Tensors() {
			tensors = append(tensors, x)
			bytesOf += len(x.Data)
			if len(x.Float32s())*x.DType.Size() != len(x.Data) {
				t.Fatalf("tensor %q has %d values in %d bytes", x.Name, len(x.Float32s()), len(x.Data))
			}
			if x.Finite() != slowlyFinite(x) {
				t.Fatalf("tensor %q: Finite is %v of %v", x.Name, x.Finite(), x.Float32s())
			}
			if floats, halves, ok := x.InPlace(); ok && len(floats)+len(halves) != len(x.Float32s()) {
				t.Fatalf("tensor %q has %d values in place, %d copied", x.Name, len(floats)+len(halves), len(x.Float32s()))
			}
		}
		if want := len(b) - lengthSize - int(binary.LittleEndian.Uint64(b)); bytesOf != want {
			t.Fatalf("tensors of %d bytes in %d bytes of data", bytesOf, want)
		}
		written := marshal(t, tensors, first.Metadata())
		second, err := Parse(written)
		if err != nil {
			t.Fatalf("%v in what was written:\n%q", err, written)
		}
		if !slices.Equal(first.Names(), second.Names()) || fmt.Sprint(first.Metadata()) != fmt.Sprint(second.Metadata()) {
			t.Fatal("names or metadata differ")
		}
		for _, x := range tensors {
			if y, _ := second.Tensor(x.Name); !equal(x, y) {
				t.Fatalf("tensor %v comes back as %v", x, y)
			}
		}
	})
}
