package kernels

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkPackFile packs a file of bfloat16 that is mapped anew each time, into new memory: what loading a model takes. "read" reads as
// many bytes, into memory that it has, and "read-Int8" those that the packed form has, into new memory: what loading
// would take if that were kept in a file. Where the file is cold, nothing of it is in the system's memory before.
func BenchmarkPackFile(b *testing.B) {
	const in, rows = 4096, 64 << 10 // 512 MiB
	path := filepath.Join(b.TempDir(), "weights")
	file := noiseFile(b, path, 2*in*rows)
	mapped := func(f func(w []uint16)) {
		m, err := unix.Mmap(int(file.Fd()), 0, 2*in*rows, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			b.Fatal(err)
		}
		f(unsafe.Slice((*uint16)(unsafe.Pointer(&m[0])), in*rows))
		if err := unix.Munmap(m); err != nil {
			b.Fatal(err)
		}
	}
	run := func(name string, f func()) {
		for _, cold := range []bool{false, true} {
			state := "/warm"
			if cold {
				state = "/cold"
			}
			b.Run(name+state, func(b *testing.B) {
				var spent time.Duration
				for b.Loop() {
					if cold {
						if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
							b.Fatal(err)
						}
					}
					began := time.Now()
					f()
					spent += time.Since(began)
				}
				b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N)/in/rows, "ns/weight")
			})
		}
	}
	read := func(dst []byte) {
		const chunk = 1 << 20
		parallel((len(dst)+chunk-1)/chunk, func(i int) {
			if _, err := file.ReadAt(dst[i*chunk:min(len(dst), (i+1)*chunk)], int64(i*chunk)); err != nil {
				panic(err)
			}
		})
	}
	buf := make([]byte, 2*in*rows)
	read(buf)
	run("read", func() { read(buf) })
	for f, name := range formatNames {
		run(name, func() {
			mapped(func(w []uint16) {
				for i := 0; i < rows; i += in { // as many matrices
					NewMatrixBF16(in, in, w[i*in:][:in*in]).Pack(Format(f))
				}
			})
		})
		size := rows / panelWidth * Format(f).panelBytes(Format(f).words(in))
		if size > len(buf) {
			continue
		}
		run("read-"+name, func() {
			data, memory := allocate(size)
			read(data)
			runtime.KeepAlive(memory)
		})
	}
}

// noiseFile returns a file of so many bytes, each pair a normally distributed bfloat16, that is on the disk.
func noiseFile(b *testing.B, path string, size int) *os.File {
	r := rand.New(rand.NewPCG(1, 2))
	half, _ := halves(normals(r, 1<<20))
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&half[0])), 2<<20)
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	for ; size > 0; size -= len(bytes) {
		if _, err := file.Write(bytes); err != nil {
			b.Fatal(err)
		}
	}
	if err := file.Sync(); err != nil {
		b.Fatal(err)
	}
	return file
}
