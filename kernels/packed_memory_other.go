//go:build !linux

package kernels

// hugePages has none to give.
func hugePages(int) ([]byte, func()) { return nil, nil }
