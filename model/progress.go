package model

import (
	"context"
	"fmt"
	"io"

	"chorus/durable"
	"chorus/model/safetensors"
)

// progress counts the bytes of long work on files, and ends it when ctx ends. The zero value does neither.
type progress struct {
	ctx         context.Context
	done, total int64
	report      func(done, total int64)
}

// add counts n bytes more and returns ctx's error.
func (p *progress) add(n int) error {
	p.done += int64(n)
	if p.report != nil {
		p.report(min(p.done, p.total), p.total) // files have headers, too
	}
	if p.ctx == nil {
		return nil
	}
	return p.ctx.Err()
}

// finite checks that the tensors of k at places hold numbers, which it counts as bytes that were expected.
func (p *progress) finite(k *Checkpoint, places []place) error {
	for _, at := range places {
		t, err := k.weights.at(at)
		if err != nil {
			return err
		}
		if !t.Finite() {
			return infinite(t)
		}
		if err := p.add(len(t.Data)); err != nil {
			return err
		}
	}
	return nil
}

// write is [safetensors.Write].
func (p *progress) write(path string, tensors []safetensors.Tensor, meta map[string]string) error {
	return durable.WriteFile(path, func(w io.Writer) error {
		if err := safetensors.Encode(p.to(w), tensors, meta); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
}

// to returns a writer to w that counts.
func (p *progress) to(w io.Writer) io.Writer { return writer{w, p} }

type writer struct {
	w io.Writer
	p *progress
}

func (w writer) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	if err != nil {
		return n, err
	}
	return n, w.p.add(n)
}
