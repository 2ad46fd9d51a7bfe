package eval

import (
	"fmt"
	"slices"

	"chorus/model"
	"chorus/model/safetensors"
)

// RecordingFile is the name of a recording in a checkpoint's folder: a safetensors file with these tensors, where B is
// the number of sequences, T their length, L the number of layers and V, H, E as in package model. Integers
// are stored as the float32 that equals them.
//
//	ids      (B, T)        tokens
//	logits   (B, T, V)
//	hidden   (L+1, B, T, H)  the input of each layer, then the last layer's output before the final norm
//	router   (L, B, T, E)  probabilities over all slots
//	chosen   (L, B, T, k)  slots
//	prompts  (N, P)        tokens
//	greedy   (N, G)        the most likely token after each prompt, and so on
//
// A dense model has neither router nor chosen. All this is computed in float32, whatever the weights are stored in.
// Where they are bfloat16, a second computation with every result rounded to bfloat16 stands beside it:
// bfloat16.logits, bfloat16.hidden, bfloat16.router, bfloat16.chosen.
const RecordingFile = "recording.safetensors"

type recording struct {
	sequences, length int
	ids               []int32   // (sequences, length)
	prompts, greedy   [][]int32 // (N)
	float32           computed
	bfloat16          *computed // nil if there is none
}

// computed is what one kind of arithmetic gave. The shapes are those of [RecordingFile].
type computed struct {
	logits, hidden, router []float32
	chosen                 []int32
}

// readRecording reads a recording and checks that it is one of a model of m's shape.
func readRecording(path string, m *model.Mixture) (*recording, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := m.Anchor.Config
	r := recordingReader{f: f}
	var rec recording
	rec.ids, rec.sequences, rec.length = r.table("ids", c.VocabSize)
	prompts, n, length := r.table("prompts", c.VocabSize)
	greedy, continued, more := r.table("greedy", c.VocabSize)
	if r.err == nil && (rec.length > c.MaxPositions || length+more > c.MaxPositions || n != continued) {
		r.err = fmt.Errorf("%d tokens, and %d prompts of %d with %d continuations of %d, expected as many of each and at most %d positions",
			rec.length, n, length, continued, more, c.MaxPositions)
	}
	rec.float32 = r.computed("", m, rec.sequences, rec.length)
	if _, ok := f.Tensor(roundedPrefix + "logits"); ok {
		b := r.computed(roundedPrefix, m, rec.sequences, rec.length)
		rec.bfloat16 = &b
	}
	if r.err != nil {
		return nil, fmt.Errorf("%s: %w", path, r.err)
	}
	rec.prompts = slices.Collect(slices.Chunk(prompts, length))
	rec.greedy = slices.Collect(slices.Chunk(greedy, more))
	return &rec, nil
}

// roundedPrefix begins the names of what was computed in bfloat16.
const roundedPrefix = "bfloat16."

// A recordingReader reads tensors until the first that is not as it must be.
type recordingReader struct {
	f   *safetensors.File
	err error
}

func (r *recordingReader) computed(prefix string, m *model.Mixture, sequences, length int) (out computed) {
	c, e := m.Anchor.Config, len(m.Slots)
	out.logits = r.values(prefix+"logits", sequences, length, c.VocabSize)
	out.hidden = r.values(prefix+"hidden", c.Layers+1, sequences, length, c.HiddenSize)
	if _, ok := r.f.Tensor(prefix + "router"); !ok && e == 1 {
		return out
	}
	out.router = r.values(prefix+"router", c.Layers, sequences, length, e)
	out.chosen = r.integers(prefix+"chosen", e, c.Layers, sequences, length, m.TopK)
	return out
}

// values returns a tensor of that shape.
func (r *recordingReader) values(name string, shape ...int) []float32 {
	if r.err != nil {
		return nil
	}
	t, ok := r.f.Tensor(name)
	switch {
	case !ok:
		r.err = fmt.Errorf("tensor %q is missing", name)
	case !slices.Equal(t.Shape, shape):
		r.err = fmt.Errorf("tensor %q has shape %v, expected %v", name, t.Shape, shape)
	default:
		return t.Float32s()
	}
	return nil
}

// integers returns a tensor of that shape of integers from 0 to limit-1.
func (r *recordingReader) integers(name string, limit int, shape ...int) []int32 {
	v := r.values(name, shape...)
	out := make([]int32, len(v))
	for i, x := range v {
		if !(x >= 0 && x < float32(limit)) || x != float32(int32(x)) {
			r.err = fmt.Errorf("tensor %q holds %v, expected integers from 0 to %d", name, x, limit-1)
			return nil
		}
		out[i] = int32(x)
	}
	return out
}

// table returns a tensor of tokens of any shape (rows, columns) with at least one of each.
func (r *recordingReader) table(name string, vocab int) (v []int32, rows, columns int) {
	t, ok := r.f.Tensor(name)
	if r.err == nil && (!ok || len(t.Shape) != 2 || slices.Contains(t.Shape, 0)) {
		r.err = fmt.Errorf("tensor %q of shape %v, expected rows and columns", name, t.Shape)
	}
	if r.err != nil {
		return nil, 0, 0
	}
	return r.integers(name, vocab, t.Shape...), t.Shape[0], t.Shape[1]
}
