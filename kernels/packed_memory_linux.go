package kernels

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePages returns size bytes, a multiple of hugePage, in large pages if the system has some left, and the function that
// releases them; or nil.
func hugePages(size int) ([]byte, func()) {
	all, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil
	}
	skip := -int(uintptr(unsafe.Pointer(&all[0]))) & (hugePage - 1)
	data := all[skip:][:size:size]
	unix.Madvise(data, unix.MADV_HUGEPAGE) // a kernel without them gives small ones
	return data, func() { unix.Munmap(all) }
}
