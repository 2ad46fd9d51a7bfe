package kernels

import (
	"runtime"
	"sync"
	"unsafe"
	"weak"
)

// A memory is a stretch of addresses that packed matrices share. It is released when none is left.
type memory struct {
	data    []byte
	used    int
	release func() // gives the pages back; nil where the collector has them
	cleanup runtime.Cleanup
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
	current.Lock()
	defer current.Unlock()
	m := current.memory.Value()
	b := m.take(n)
	if b == nil {
		m = newMemory(lines(n))
		b = m.take(n)
		current.memory = weak.Make(m)
	}
	return b, m
}

// take returns n bytes of m, or nil if so many are not left.
func (m *memory) take(n int) []byte {
	n = lines(n)
	if m == nil || len(m.data)-m.used < n {
		return nil
	}
	b := m.data[m.used:][:n:n]
	m.used += n
	return b
}

// lines rounds n up to whole cache lines.
func lines(n int) int { return (n + cacheLine - 1) &^ (cacheLine - 1) }

func newMemory(n int) *memory {
	size := max(stretch, (n+hugePage-1)&^(hugePage-1))
	m := &memory{}
	if data, release := hugePages(size); data != nil {
		m.data, m.release = data, release
		m.cleanup = runtime.AddCleanup(m, func(release func()) { release() }, release)
		return m
	}
	data := make([]byte, n+cacheLine)
	m.data = data[-int(uintptr(unsafe.Pointer(&data[0])))&(cacheLine-1):]
	return m
}

// An Arena is memory for packed matrices that go together: its owner gives all of it back at a moment of its choosing,
// where other packed matrices wait for the collector. The zero Arena is ready. It is not for concurrent use.
type Arena struct {
	memories []*memory
	held     []*packed
}

// Pack is [Matrix.Pack] into the arena.
func (a *Arena) Pack(m Matrix, f Format) Matrix { return m.pack(a, f, false) }

// Packed is [Matrix.Packed] into the arena.
func (a *Arena) Packed(m Matrix) Matrix { return m.packedIn(a) }

// Release gives the memory back at once. Using a matrix that was packed into the arena is from then on a panic, and
// must not be under way.
func (a *Arena) Release() {
	for _, p := range a.held {
		p.data, p.memory = nil, nil
	}
	for _, m := range a.memories {
		if m.release == nil {
			clear(m.data)
		} else {
			m.cleanup.Stop()
			m.release()
		}
		m.data = nil
	}
	*a = Arena{}
}

// allocate gives p size bytes.
func (a *Arena) allocate(p *packed, size int) {
	if len(a.memories) > 0 {
		p.memory = a.memories[len(a.memories)-1]
		p.data = p.memory.take(size)
	}
	if p.data == nil {
		p.memory = newMemory(lines(size))
		p.data = p.memory.take(size)
		a.memories = append(a.memories, p.memory)
	}
	a.held = append(a.held, p)
}
