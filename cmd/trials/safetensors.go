package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorus/model/safetensors"

	"github.com/spf13/cobra"
)

//go:embed safetensors.py
var safetensorsScript string

const (
	randomFiles  = 600
	damagedFiles = 30000
)

func safetensorsTrial() *cobra.Command {
	var python string
	c := &cobra.Command{
		Use:   "safetensors",
		Short: "Exchange files with the safetensors library of Python, both ways",
		Long: `Reads what Python wrote and has Python read what chorus wrote, bit for bit, over several hundred random files;
then compares who refuses what: files made to be malformed, and thousands of damaged ones. It needs Python with
the package safetensors, and takes half a minute.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runSafetensors(c.Context(), python) },
	}
	c.Flags().StringVar(&python, "python", "python3", "the Python that has the package safetensors")
	return c
}

// A safetensorsRun is one run of the trial.
type safetensorsRun struct {
	*tally
	ctx    context.Context
	oracle *oracle
	dir    string // for files of its own
	rng    *rand.Rand
}

func runSafetensors(ctx context.Context, python string) error {
	o, err := startOracle(ctx, python, safetensorsScript, "safetensors")
	if err != nil {
		return err
	}
	defer o.end()
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("against safetensors %s\n", o.version)
	r := &safetensorsRun{&tally{}, ctx, o, dir, rand.New(rand.NewPCG(3, 4))}
	seeds, err := r.exchange()
	if err != nil {
		return err
	}
	if err := r.malformed(); err != nil {
		return err
	}
	if err := r.damaged(seeds); err != nil {
		return err
	}
	return r.verdict()
}

// A plainTensor is a tensor on its way to Python or back.
type plainTensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	Data  []byte `json:"data"`
}

func plain(tensors []safetensors.Tensor) []plainTensor {
	out := []plainTensor{}
	for _, t := range tensors {
		out = append(out, plainTensor{t.Name, string(t.DType), append([]int{}, t.Shape...), append([]byte{}, t.Data...)})
	}
	slices.SortFunc(out, func(a, b plainTensor) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func same(a, b []plainTensor) bool {
	slices.SortFunc(b, func(a, b plainTensor) int { return cmp.Compare(a.Name, b.Name) })
	return slices.EqualFunc(a, b, func(a, b plainTensor) bool {
		return a.Name == b.Name && a.DType == b.DType && slices.Equal(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data)
	})
}

// exchange passes random files both ways, and returns some that are small.
func (r *safetensorsRun) exchange() (small [][]byte, err error) {
	var tensorCount, empty, scalar, bytesOf int
	read, back, equal, unreadable := 0, 0, 0, 0
	for range randomFiles {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		tensors, metadata := r.random()
		want := plain(tensors)
		for _, t := range tensors {
			tensorCount++
			bytesOf += len(t.Data)
			if len(t.Data) == 0 {
				empty++
			}
			if len(t.Shape) == 0 {
				scalar++
			}
		}
		theirs, ours := filepath.Join(r.dir, "theirs.safetensors"), filepath.Join(r.dir, "ours.safetensors")
		if err := r.oracle.ask(map[string]any{"do": "write", "path": theirs, "tensors": want, "metadata": metadata}, nil); err != nil {
			return nil, err
		}
		if err := safetensors.Write(ours, tensors, metadata); err != nil {
			return nil, err
		}
		var answer struct {
			Tensors  []plainTensor     `json:"tensors"`
			Metadata map[string]string `json:"metadata"`
		}
		if err := r.oracle.ask(map[string]any{"do": "read", "path": ours}, &answer); err != nil {
			fmt.Printf("  Python: %v\n", err)
		} else if same(want, answer.Tensors) && maps.Equal(answer.Metadata, metadata) {
			back++
		}
		a, errA := os.ReadFile(theirs)
		b, errB := os.ReadFile(ours)
		if err := errors.Join(errA, errB); err != nil {
			return nil, err
		}
		if r.oracle.ask(map[string]any{"do": "read", "path": theirs}, nil) != nil {
			if unreadable++; unreadable == 1 {
				fmt.Printf("  Python does not read what it wrote itself of %d tensors and metadata %v: %.100q\n", len(tensors), metadata, a)
			}
			continue
		}
		f, err := safetensors.Open(theirs)
		if err != nil {
			fmt.Printf("  %v\n", err)
		} else {
			if same(want, plain(slices.Collect(f.Tensors()))) && maps.Equal(f.Metadata(), metadata) {
				read++
			}
			if err := f.Close(); err != nil {
				return nil, err
			}
		}
		// The library puts several metadata keys in a random order.
		if bytes.Equal(a, b) || len(metadata) > 1 && len(a) == len(b) && bytes.Equal(a[headerEnd(a):], b[headerEnd(b):]) && sameJSON(a, b) {
			equal++
		} else {
			fmt.Printf("  differ:\n    chorus %.200q\n    Python %.200q\n", b, a)
		}
		if len(a) < 2000 {
			small = append(small, a)
		}
	}
	fmt.Printf("\n%d random files: %d tensors, %d of them empty and %d scalars, %.1f MB\n", randomFiles, tensorCount, empty, scalar, float64(bytesOf)/1e6)
	readable := randomFiles - unreadable
	r.check(read == readable, "chorus reads every file of Python's that Python reads, bit for bit: %d of %d", read, readable)
	r.check(back == randomFiles, "Python reads every file of chorus's, bit for bit: %d of %d", back, randomFiles)
	r.check(equal == readable, "both write the same bytes, but for the order of several metadata keys: %d of %d", equal, readable)
	return small, nil
}

// headerEnd is where the data begins.
func headerEnd(file []byte) int { return 8 + int(binary.LittleEndian.Uint64(file)) }

func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a[8:headerEnd(a)], &x) != nil || json.Unmarshal(b[8:headerEnd(b)], &y) != nil {
		return false
	}
	p, _ := json.Marshal(x) // sorts the keys
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

// random makes up a file's content: any bits, NaNs of every kind among them.
func (r *safetensorsRun) random() (tensors []safetensors.Tensor, metadata map[string]string) {
	taken := map[string]bool{"__metadata__": true}
	for range r.rng.IntN(12) {
		name := r.text(30)
		if taken[name] {
			continue
		}
		taken[name] = true
		t := safetensors.Tensor{Name: name, DType: []safetensors.DType{safetensors.F32, safetensors.BF16, safetensors.F16}[r.rng.IntN(3)]}
		size := t.DType.Size()
		t.Shape = []int{}
		for range r.rng.IntN(safetensors.MaxRank + 1) {
			d := 1 + r.rng.IntN(5)
			if r.rng.IntN(15) == 0 {
				d = 0
			}
			t.Shape = append(t.Shape, d)
			size *= d
		}
		t.Data = make([]byte, size)
		for i := range t.Data {
			t.Data[i] = byte(r.rng.Uint32())
		}
		tensors = append(tensors, t)
	}
	if r.rng.IntN(3) > 0 {
		metadata = map[string]string{}
		for range r.rng.IntN(4) {
			metadata[r.text(20)] = r.text(60)
		}
	}
	return tensors, metadata
}

// text is a name: mostly as models have them, else any characters.
func (r *safetensorsRun) text(limit int) string {
	if r.rng.IntN(2) == 0 {
		return fmt.Sprintf("model.layers.%d.mlp.%s.weight", r.rng.IntN(64), []string{"up_proj", "down_proj", "gate"}[r.rng.IntN(3)])
	}
	var b strings.Builder
	for range r.rng.IntN(limit) {
		switch r.rng.IntN(4) {
		case 0:
			b.WriteRune(rune(r.rng.IntN(0x80))) // quotes, backslashes and controls too
		case 1:
			b.WriteRune(0xe000 + rune(r.rng.IntN(0x10ffff-0xe000)))
		case 2:
			b.WriteString([]string{"é", "日本", "🙂", "\u2028", "\u0085", "\x7f", "\ufeff", "</script>", `\u0000`, "\""}[r.rng.IntN(10)])
		default:
			b.WriteRune(rune(0xa0 + r.rng.IntN(0x2000)))
		}
	}
	return b.String()
}

// A verdict is Python's on one file.
type verdict struct {
	Tensors []plainTensor `json:"tensors"`
	Error   string        `json:"error"`
}

func (r *safetensorsRun) judge(files [][]byte) (v []verdict, err error) {
	err = r.oracle.ask(map[string]any{"do": "judge", "files": files}, &v)
	return v, err
}

// malformed asks both about files that break the format, or that chorus does not accept.
func (r *safetensorsRun) malformed() error {
	cases := malformedFiles()
	var files [][]byte
	for _, c := range cases {
		files = append(files, c.file)
	}
	v, err := r.judge(files)
	if err != nil {
		return err
	}
	rows := [][]string{{"", "chorus", "safetensors"}}
	refused, both := 0, 0
	say := func(refused bool) string {
		if refused {
			return "refuses"
		}
		return "reads"
	}
	for i, c := range cases {
		_, err := safetensors.Parse(c.file)
		ours, theirs := errors.Is(err, safetensors.ErrMalformed), v[i].Error != ""
		if ours {
			refused++
		}
		if ours && theirs {
			both++
		}
		rows = append(rows, []string{c.name, say(ours), say(theirs)})
	}
	fmt.Println("\nFiles made to be refused")
	table(rows)
	r.check(refused == len(cases), "chorus refuses all %d; the library %d of them", len(cases), both)
	return nil
}

// A malformedFile is a file and what is wrong with it.
type malformedFile struct {
	name string
	file []byte
}

func malformedFiles() []malformedFile {
	file := func(header string, data ...byte) []byte {
		return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...)
	}
	one := func(dtype, shape, offsets string) []byte {
		return file(fmt.Sprintf(`{"a":{"dtype":%q,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets), 0, 0, 0, 0)
	}
	length := func(n uint64, rest string) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), rest...) }
	const empty = `{"dtype":"F16","shape":[0],"data_offsets":[0,0]}`
	return []malformedFile{
		{"nothing", nil},
		{"a length alone", length(0, "")},
		{"a header past the end", length(3, "{}")},
		{"a header of 2^63 bytes", length(1<<63, "{}")},
		{"a header of 2^64-1 bytes", length(1<<64-1, "{}")},
		{"no object", file(`[]`)},
		{"space in front", file(` {}`)},
		{"a byte order mark", file("\ufeff{}")},
		{"two objects", file(`{}{}`)},
		{"zeros as padding", file("{}\x00")},
		{"a newline as padding", file("{}\n")},
		{"an open object", file(`{"a":`)},
		{"a comma too many", file(`{"a":` + empty + `,}`)},
		{"a comment", file(`{/**/}`)},
		{"a name not UTF-8", file("{\"\xff\":" + empty + "}")},
		{"half a surrogate pair", file(`{"\ud800":` + empty + `}`)},
		{"a name twice", file(`{"a":` + empty + `,"a":` + empty + `}`)},
		{"a name twice, once escaped", file(`{"a":` + empty + `,"\u0061":` + empty + `}`)},
		{"a key twice", file(`{"a":{"dtype":"F16","dtype":"F16","shape":[0],"data_offsets":[0,0]}}`)},
		{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`)},
		{"a metadata key twice", file(`{"__metadata__":{"a":"","a":""}}`)},
		{"metadata that is null", file(`{"__metadata__":null}`)},
		{"metadata that is no text", file(`{"__metadata__":{"a":1}}`)},
		{"a tensor that is null", file(`{"a":null}`)},
		{"a tensor as an array", file(`{"a":["F16",[0],[0,0]]}`)},
		{"an unknown key", file(`{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0],"x":1}}`)},
		{"no dtype", file(`{"a":{"shape":[0],"data_offsets":[0,0]}}`)},
		{"no shape", file(`{"a":{"dtype":"F16","data_offsets":[0,0]}}`)},
		{"no offsets", file(`{"a":{"dtype":"F16","shape":[0]}}`)},
		{"an unknown dtype", one("F33", "[]", "[0,4]")},
		{"a dtype in lower case", one("f32", "[]", "[0,4]")},
		{"a dtype that chorus lacks", one("I32", "[]", "[0,4]")},
		{"a negative dimension", one("F32", "[-1]", "[0,4]")},
		{"a fraction", one("F32", "[1.0]", "[0,4]")},
		{"an exponent", one("F32", "[1e0]", "[0,4]")},
		{"a leading zero", one("F32", "[01]", "[0,4]")},
		{"a dimension of 2^64", one("F32", "[18446744073709551616]", "[0,4]")},
		{"a product of 2^64", one("F32", "[4294967296,4294967296]", "[0,4]")},
		{"a product of 2^64+1", one("F32", "[641,6700417,4294967297]", "[0,4]")},
		{"a product that a 0 hides", one("F32", "[0,4294967296,4294967296]", "[0,0]")},
		{"nine dimensions", one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]")},
		{"one offset", one("F32", "[]", "[0]")},
		{"three offsets", one("F32", "[]", "[0,4,4]")},
		{"offsets the wrong way", one("F32", "[]", "[4,0]")},
		{"a range too short", one("F32", "[]", "[0,3]")},
		{"a range too long", one("F16", "[]", "[0,4]")},
		{"a range past the end", one("F32", "[2]", "[0,8]")},
		{"an offset of 2^64-1", one("F32", "[2]", "[0,18446744073709551615]")},
		{"a gap in front", one("F16", "[1]", "[2,4]")},
		{"a gap between", file(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]}}`, 0, 0, 0, 0, 0, 0)},
		{"an overlap", file(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}`, 0, 0, 0, 0, 0, 0)},
		{"one range for two", file(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}`, 0, 0)},
		{"bytes left over", one("F16", "[1]", "[0,2]")},
		{"data without tensors", file(`{}`, 0)},
	}
}

// damaged changes a few bytes of good files and asks both: what chorus reads, the library reads, and as the same.
func (r *safetensorsRun) damaged(good [][]byte) error {
	good = slices.DeleteFunc(good, func(b []byte) bool { return len(b) < 16 })
	var ours, theirs, disputed int
	for done := 0; done < damagedFiles; {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		var files [][]byte
		for ; len(files) < 1000 && done < damagedFiles; done++ {
			files = append(files, r.damage(good[r.rng.IntN(len(good))]))
		}
		v, err := r.judge(files)
		if err != nil {
			return err
		}
		for i, b := range files {
			if v[i].Error == "" {
				theirs++
			}
			f, err := safetensors.Parse(b)
			if err != nil {
				continue
			}
			ours++
			if v[i].Error != "" || !same(plain(slices.Collect(f.Tensors())), v[i].Tensors) {
				disputed++
				fmt.Printf("  chorus alone reads %.300q: %s\n", b, v[i].Error)
			}
		}
	}
	fmt.Printf("\n%d damaged files: chorus reads %d, the library %d\n", damagedFiles, ours, theirs)
	r.check(disputed == 0, "what chorus reads of them, the library reads, and as the same tensors: %d exceptions", disputed)
	r.check(ours > 0 && ours < damagedFiles, "the damage leaves some files well-formed and others not")
	return nil
}

// damage returns a copy with one to three changes, most of them in the header.
func (r *safetensorsRun) damage(file []byte) []byte {
	b := slices.Clone(file)
	for range 1 + r.rng.IntN(3) {
		at := r.rng.IntN(len(b))
		if end := headerEnd(file); r.rng.IntN(4) > 0 && len(b) >= end {
			at = 8 + r.rng.IntN(end-8)
		}
		switch r.rng.IntN(5) {
		case 0:
			b[at] ^= 1 << r.rng.IntN(8)
		case 1:
			b[at] = "0123456789[]{}\",: \\eE+-.\x00\xff"[r.rng.IntN(26)]
		case 2:
			b = slices.Delete(b, at, at+1)
		case 3:
			b = slices.Insert(b, at, b[at])
		case 4: // a part twice
			end := min(len(b), at+1+r.rng.IntN(30))
			b = slices.Insert(b, at, slices.Clone(b[at:end])...)
		}
		if len(b) < 16 {
			break
		}
		if n := len(b) - len(file); n != 0 && r.rng.IntN(4) > 0 { // the length in front fits again
			binary.LittleEndian.PutUint64(b, uint64(headerEnd(file)-8+n))
		}
	}
	return b
}
