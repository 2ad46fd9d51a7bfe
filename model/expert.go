package model

import (
	"cmp"
	"errors"
	"fmt"

	"chorus/model/safetensors"
)

// Keys of an expert blob's metadata.
const (
	metaFormat = "format"
	metaAnchor = "anchor"
	formatName = "chorus-expert/1"
)

// LoadExpert opens an expert's blob, made for the anchor a. Every tensor must have the name and shape that the
// anchor implies, and no other may be there. For each matrix of an FFN a blob has either
//
//	layers.L.gate_proj.weight      (I, H), or
//	layers.L.gate_proj_a.weight    (r, H) and
//	layers.L.gate_proj_b.weight    (I, r), whose product is the difference from the anchor's public matrix,
//
// likewise up_proj and down_proj; then layers.L.router.weight (H) and layers.L.router.bias (1). Like an anchor's,
// its weights are mapped and not yet read: see [Expert.CheckFinite].
func LoadExpert(path string, a *Anchor) (*Expert, error) {
	w, err := openFile(path)
	if err != nil {
		return nil, err
	}
	loaded := false
	defer func() {
		if !loaded {
			_ = w.close()
		}
	}()
	if got := w.meta[metaFormat]; got != formatName {
		return nil, fmt.Errorf("%s: metadata %q is %q, expected %q", path, metaFormat, got, formatName)
	}
	e := &Expert{Anchor: w.meta[metaAnchor], Metadata: w.meta, weights: w}
	e.stored = func(l int, name string) (safetensors.Tensor, error) {
		return w.read(wholeProjection(a.Config, l, name))
	}
	r := reader{w: w}
	known := make(map[string]bool)
	for l := range a.Config.Layers {
		public := a.Public.FFN[l]
		matrix := func(name string, public Projection) Projection {
			full, low := wholeProjection(a.Config, l, name), lowRank(w, a.Config, l, name)
			if low == nil {
				known[full.tensor] = true
				return Projection{Matrix: r.matrix(full)}
			}
			known[low[0].tensor], known[low[1].tensor] = true, true
			return Projection{public.Matrix, r.matrix(low[0]), r.matrix(low[1])}
		}
		e.FFN = append(e.FFN, FFN{
			Gate: matrix("gate_proj", public.Gate), Up: matrix("up_proj", public.Up), Down: matrix("down_proj", public.Down),
		})
		router, bias := whole(expertTensor(l, "router"), a.Config.HiddenSize), whole(expertBias(l), 1)
		known[router.tensor], known[bias.tensor] = true, true
		e.Router, e.Bias = append(e.Router, r.values(router)), append(e.Bias, r.values(bias))
	}
	if err := cmp.Or(r.err, w.only(known)); err != nil {
		return nil, err
	}
	loaded = true
	return e, nil
}

// AnchorOf returns the CID of the anchor that the expert in a file says it was trained against.
func AnchorOf(path string) (string, error) {
	w, err := openFile(path)
	if err != nil {
		return "", err
	}
	if got := w.meta[metaFormat]; got != formatName {
		err = fmt.Errorf("%s: metadata %q is %q, expected %q", path, metaFormat, got, formatName)
	}
	return w.meta[metaAnchor], errors.Join(err, w.close())
}

// Close gives back at once what the expert takes: its packed matrices and the mapping of its file. Nothing may compute
// with the expert, or with a mixture that it stands in, any more. A second Close does nothing.
func (e *Expert) Close() error {
	e.Slot = Slot{}
	e.packed.Release()
	if e.weights == nil {
		return nil
	}
	return e.weights.close()
}

// wholeProjection is where a blob has a matrix of full rank.
func wholeProjection(c Config, l int, name string) place {
	out, in := c.matrixShape(name)
	return whole(expertTensor(l, name), out, in)
}

// lowRank is where a blob has the two factors of a matrix's difference from the public one, nil if it has the
// matrix itself. The first factor's shape says the rank, which is at most that of the matrix.
func lowRank(w *weights, c Config, l int, name string) []place {
	out, in := c.matrixShape(name)
	a, b := expertTensor(l, name+"_a"), expertTensor(l, name+"_b")
	if !w.has(a) && !w.has(b) {
		return nil
	}
	rank := 1
	if t := w.tensors[a]; len(t.Shape) == 2 {
		rank = max(1, min(t.Shape[0], out, in))
	}
	return []place{whole(a, rank, in), whole(b, out, rank)}
}

// CheckFinite reads all weights and refuses NaN and infinities. It is for a blob that comes from elsewhere, once.
func (e *Expert) CheckFinite() error { return e.weights.checkFinite() }

// SaveExpert writes an expert's blob, trained against the anchor of that CID, in bfloat16. The same
// tensors and anchor give the same bytes.
func SaveExpert(path, anchor string, tensors []Tensor) error {
	return safetensors.Write(path, rounded(tensors), expertMetadata(anchor))
}

func expertMetadata(anchor string) map[string]string {
	return map[string]string{metaFormat: formatName, metaAnchor: anchor}
}
