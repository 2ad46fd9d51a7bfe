// Package kernels is the arithmetic of chorus: matrix products, attention, norms,
// the router's softmax, losses and optimiser steps, forward and backward.
//
// It is not a tensor library: there are no shapes to carry around, no graph and no
// allocation. Every function reads and writes float32 slices whose shapes are given in
// its comment, rows first, and panics only when a slice is too short for its shape, which
// is a programmer's error. Weights alone may be bfloat16, or packed in one of several [Format]s. Begin with [Matrix]
// and [Linear].
//
// Every result is the same to the bit whatever the number of threads and whatever batch a
// row travels in: work is split over outputs, never over a sum. Results of different
// tiers, see [Tier], differ in rounding.
//
// All functions may be called concurrently as long as their outputs do not overlap.
package kernels

//go:generate go run ./internal/gen -out asm_amd64.s -stubs asm_amd64.go -pkg kernels
