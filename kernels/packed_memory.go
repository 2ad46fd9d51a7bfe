package kernels

import (
	"runtime"
	"sync"
	"unsafe"
	"weak"
)

// A memory is a stretch of addresses that packed matrices share. It is released when none is left.
type memory struct {
	data []byte
	used int
}

const (
	// hugePage is the size of the large pages of amd64 and, most often, of arm64.
	hugePage = 2 << 20

	// stretch is the least size of a memory: small matrices share large pages.
	stretch = 32 << 20

	cacheLine = 64
)

// current is the memory that the next matrix may go to.
var current struct {
	sync.Mutex
	memory weak.Pointer[memory]
}

// allocate returns n bytes, aligned to a cache line, and what to keep for as long as they are in use. Pages that have not
// been written take no memory.
func allocate(n int) ([]byte, *memory) {
	n = (n + cacheLine - 1) &^ (cacheLine - 1)
	current.Lock()
	defer current.Unlock()
	m := current.memory.Value()
	if m == nil || len(m.data)-m.used < n {
		m = newMemory(n)
		current.memory = weak.Make(m)
	}
	b := m.data[m.used:][:n:n]
	m.used += n
	return b, m
}

func newMemory(n int) *memory {
	size := max(stretch, (n+hugePage-1)&^(hugePage-1))
	m := &memory{}
	if data, release := hugePages(size); data != nil {
		m.data = data
		runtime.AddCleanup(m, func(release func()) { release() }, release)
		return m
	}
	data := make([]byte, n+cacheLine)
	m.data = data[-int(uintptr(unsafe.Pointer(&data[0])))&(cacheLine-1):]
	return m
}
