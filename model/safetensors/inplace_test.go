package safetensors

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestInPlaceSharesTheBytes(t *testing.T) {
	v := []float32{1.5, -2, 0, float32(math.Inf(1)), 0x1p-120}
	for _, d := range []DType{F32, BF16, F16} {
		x := FromFloat32("x", d, []int{len(v)}, v)
		floats, halves, ok := x.InPlace()
		if ok != (d != F16) || (floats != nil) != (d == F32) || (halves != nil) != (d == BF16) {
			t.Fatalf("%s: %v, %v, %v", d, floats, halves, ok)
		}
		if !ok {
			continue
		}
		for i := range halves {
			floats = append(floats, math.Float32frombits(uint32(halves[i])<<16))
		}
		if got, want := fmt.Sprint(floats), fmt.Sprint(v); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
		x.Data[d.Size()-1] ^= 0x80 // the first element's sign
		floats, halves, _ = x.InPlace()
		if d == F32 && floats[0] != -1.5 || d == BF16 && halves[0]>>15 != 1 {
			t.Errorf("%s: a copy", d)
		}
	}
}

func TestInPlaceOfNothingIsNotNil(t *testing.T) {
	if floats, halves, ok := (Tensor{DType: F32}).InPlace(); !ok || floats == nil || halves != nil {
		t.Errorf("F32: %v, %v, %v", floats, halves, ok)
	}
	if floats, halves, ok := (Tensor{DType: BF16}).InPlace(); !ok || floats != nil || halves == nil {
		t.Errorf("BF16: %v, %v, %v", floats, halves, ok)
	}
}

func TestInPlaceRefusesWhatIsNotAligned(t *testing.T) {
	b := FromFloat32("x", F32, []int{4}, make([]float32, 4)).Data
	for _, x := range []Tensor{
		{DType: F32, Data: b[1:5]}, {DType: F32, Data: b[2:10]}, {DType: BF16, Data: b[3:7]},
		{DType: F32, Data: b[:6]}, {DType: BF16, Data: b[:3]}, {DType: "I8", Data: b}, {},
	} {
		if floats, halves, ok := x.InPlace(); ok || floats != nil || halves != nil {
			t.Errorf("%s of %d bytes: %v, %v, %v", x.DType, len(x.Data), floats, halves, ok)
		}
	}
	if _, halves, ok := (Tensor{DType: BF16, Data: b[2:8]}).InPlace(); !ok || len(halves) != 3 {
		t.Error("BF16 at an even byte is refused")
	}
}

// slowlyFinite is Finite by its definition.
func slowlyFinite(x Tensor) bool {
	for _, v := range x.Float32s() {
		if v != v || math.IsInf(float64(v), 0) {
			return false
		}
	}
	return true
}

func TestFiniteKnowsEveryNarrowValue(t *testing.T) {
	for _, d := range []DType{BF16, F16} {
		for bits := range 1 << 16 {
			x := Tensor{DType: d, Shape: []int{1}, Data: []byte{byte(bits), byte(bits >> 8)}}
			if got, want := x.Finite(), slowlyFinite(x); got != want {
				t.Fatalf("%s %#04x: %v, want %v", d, bits, got, want)
			}
		}
	}
}

// Neighbours must not matter: the values around one have every bit set that they may.
func TestFiniteFindsOneAnywhere(t *testing.T) {
	for _, d := range []DType{F32, BF16, F16} {
		size := d.Size()
		largest := map[DType][]byte{
			F32: {0xff, 0xff, 0x7f, 0xff}, BF16: {0x7f, 0xff}, F16: {0xff, 0xfb},
		}[d]
		infinite := map[DType][]byte{F32: {0, 0, 0x80, 0x7f}, BF16: {0x80, 0x7f}, F16: {0, 0x7c}}[d]
		for n := range 300 {
			x := Tensor{DType: d, Shape: []int{n}, Data: bytes.Repeat(largest, n)}
			if !x.Finite() || !slowlyFinite(x) {
				t.Fatalf("%s: %d finite values are refused", d, n)
			}
			for i := 0; i < n; i += 1 + n/70 {
				copy(x.Data[i*size:], infinite)
				if x.Finite() || slowlyFinite(x) {
					t.Fatalf("%s: an infinity at %d of %d is missed", d, i, n)
				}
				copy(x.Data[i*size:], largest)
			}
		}
	}
}

func TestFiniteOfRandomBitsIsWhatTheValuesSay(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	seen := map[bool]int{}
	for range 30000 {
		d := []DType{F32, BF16, F16}[rng.IntN(3)]
		x := Tensor{DType: d, Data: make([]byte, d.Size()*rng.IntN(150))}
		for i := range x.Data {
			x.Data[i] = byte(rng.Uint32())
		}
		got := x.Finite()
		if want := slowlyFinite(x); got != want {
			t.Fatalf("%s %x: %v, want %v", d, x.Data, got, want)
		}
		seen[got]++
	}
	if seen[true] < 1000 || seen[false] < 1000 {
		t.Errorf("drawn: %v", seen)
	}
}

func TestFiniteOfATornTensorIsFalse(t *testing.T) {
	for _, x := range []Tensor{{DType: F32, Data: make([]byte, 6)}, {DType: F16, Data: make([]byte, 1)}, {DType: "I8", Data: make([]byte, 4)}, {}} {
		if x.Finite() {
			t.Errorf("%s of %d bytes is finite", x.DType, len(x.Data))
		}
	}
	if !(Tensor{DType: F32}).Finite() {
		t.Error("no element at all is not finite")
	}
}

// mapped reports whether the process has the file mapped.
func mapped(t *testing.T, path string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), path)
}

func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("what a process has mapped is known on Linux alone: run it there")
	}
}

// ones writes a file with the tensor x of 1<<16 ones.
func ones(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "f.safetensors")
	v := make([]float32, 1<<16)
	for i := range v {
		v[i] = 1
	}
	if err := Write(path, []Tensor{FromFloat32("x", F32, []int{len(v)}, v)}, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// released collects garbage until the file is no longer mapped.
func released(t *testing.T, path string) bool {
	t.Helper()
	for range 1000 {
		runtime.GC()
		if !mapped(t, path) {
			return true
		}
		runtime.Gosched()
	}
	return false
}

func TestAMappingLastsAsLongAsItsFileAndNoLonger(t *testing.T) {
	onLinux(t)
	path := ones(t)
	var owner any // as a matrix keeps the file
	view := func() []float32 {
		f, err := open(path, false)
		if err != nil {
			t.Fatal(err)
		}
		x, _ := f.Tensor("x")
		floats, _, ok := x.InPlace()
		if !ok {
			t.Fatal("not in place")
		}
		owner = f
		return floats
	}()
	for range 10 {
		runtime.GC()
	}
	if !mapped(t, path) {
		t.Fatal("released while the file is kept")
	}
	sum := float32(0)
	for _, v := range view {
		sum += v
	}
	if sum != 1<<16 {
		t.Errorf("the view sums to %v", sum)
	}
	runtime.KeepAlive(owner)
	owner = nil
	if !released(t, path) {
		t.Error("still mapped when nobody has the file")
	}
}

func TestATensorKeepsItsMapping(t *testing.T) {
	onLinux(t)
	path := ones(t)
	x := func() Tensor {
		f, err := open(path, false)
		if err != nil {
			t.Fatal(err)
		}
		x, _ := f.Tensor("x")
		return x
	}()
	for range 10 {
		runtime.GC()
	}
	if !mapped(t, path) || !x.Finite() || x.Float32s()[1<<16-1] != 1 {
		t.Error("released while a tensor is kept")
	}
	if !released(t, path) {
		t.Error("still mapped when nobody has a tensor")
	}
}

func TestCloseEndsTheMappingOnce(t *testing.T) {
	onLinux(t)
	path := ones(t)
	f, err := open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil || mapped(t, path) {
		t.Fatalf("still mapped after Close: %v", err)
	}
	// What is mapped next may get the same address. The closed file's cleanup must not end it.
	again, err := open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	f = nil
	for range 10 {
		runtime.GC()
	}
	if !mapped(t, path) {
		t.Error("the cleanup of a closed file ended another mapping")
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAFileReadWholeIsTheFileMapped(t *testing.T) {
	for _, whole := range []bool{false, true} {
		f, err := open("testdata/reference.safetensors", whole)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range referenceTensors {
			if got, ok := f.Tensor(want.Name); !ok || !equal(got, want) {
				t.Errorf("whole %v: tensor %q is %v, want %v", whole, want.Name, got, want)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	path := ones(t)
	f, err := open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := f.Tensor("x")
	if floats, _, ok := x.InPlace(); !ok || floats[1<<16-1] != 1 {
		t.Error("not in place")
	}
	if runtime.GOOS == "linux" && mapped(t, path) {
		t.Error("mapped, though read whole")
	}
	runtime.KeepAlive(f)
}

func TestAnOpenFileCanBeDeleted(t *testing.T) {
	path := ones(t)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if x, _ := f.Tensor("x"); x.Float32s()[1<<16-1] != 1 {
		t.Error("the tensor is gone with the name")
	}
}

func BenchmarkFinite(b *testing.B) {
	for _, n := range []int{1 << 20, 1 << 28} { // in the caches, and not
		for _, d := range []DType{F32, BF16, F16} {
			x := Tensor{DType: d, Data: bytes.Repeat([]byte{1}, n)}
			b.Run(fmt.Sprintf("%s/%dMiB", d, n>>20), func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					if !x.Finite() {
						b.Fatal("not finite")
					}
				}
			})
		}
	}
}
