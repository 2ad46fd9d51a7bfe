package main

import (
	"syscall"
	"unsafe"
)

// largePages returns zeros that the system was asked to hold in large pages, as packed weights are, and what gives them back.
func largePages(n int) (data []float32, free func() error, err error) {
	b, err := syscall.Mmap(-1, 0, 4*n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	_ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) // no more than a wish
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), n), func() error { return syscall.Munmap(b) }, nil
}
