package train

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"chorus/model"
)

func counting(n int) *Tokens {
	t := new(Tokens)
	for i := range n {
		t.IDs = append(t.IDs, int32(i))
	}
	return t
}

func TestEveryWindowIsDealtOncePerEpoch(t *testing.T) {
	const length, sequences, windows = 8, 3, 21
	for _, tail := range []int{1, 5, length} { // tokens after the last window's, one of them its last target
		b := newBatcher(counting(windows*length+tail), length, 7)
		ids, targets := make([]int32, sequences*length), make([]int32, sequences*length)
		var orders [][]int32
		for epoch := range 3 {
			var starts []int32
			for step := range windows / sequences {
				b.fill(ids, targets, epoch*windows/sequences+step)
				for s := range sequences {
					window := ids[s*length:][:length]
					starts = append(starts, window[0])
					for i, id := range window {
						if id != window[0]+int32(i) || targets[s*length+i] != id+1 {
							t.Fatalf("window %v has targets %v", window, targets[s*length:][:length])
						}
					}
				}
			}
			orders = append(orders, slices.Clone(starts))
			slices.Sort(starts)
			for i, at := range starts {
				if len(starts) != windows || at != int32(i*length) {
					t.Fatalf("epoch %d dealt windows at %v", epoch, starts)
				}
			}
		}
		if slices.Equal(orders[0], orders[1]) || slices.Equal(orders[1], orders[2]) || slices.IsSorted(orders[0]) {
			t.Errorf("epochs are dealt in the orders %v", orders)
		}
	}
}

func TestWhatAStepGetsDependsOnNothingBeforeIt(t *testing.T) {
	const length, sequences = 8, 4 // 21 windows: steps straddle epochs
	text := counting(21*length + 1)
	fill := func(b *batcher, step int) []int32 {
		ids, targets := make([]int32, sequences*length), make([]int32, sequences*length)
		b.fill(ids, targets, step)
		return append(ids, targets...)
	}
	used := newBatcher(text, length, 7)
	for _, step := range []int{0, 1, 2, 17, 5, 40, 4, 5, 6, 0} {
		if !slices.Equal(fill(used, step), fill(newBatcher(text, length, 7), step)) {
			t.Errorf("step %d depends on the steps before it", step)
		}
	}
	if slices.Equal(fill(newBatcher(text, length, 7), 0), fill(newBatcher(text, length, 8), 0)) {
		t.Error("two seeds deal the same windows")
	}
}

func TestAShortTextIsRepeated(t *testing.T) {
	b := newBatcher(counting(3), 8, 1)
	ids, targets := make([]int32, 8), make([]int32, 8)
	b.fill(ids, targets, 5)
	if !slices.Equal(ids, []int32{0, 1, 2, 0, 1, 2, 0, 1}) || !slices.Equal(targets, []int32{1, 2, 0, 1, 2, 0, 1, 2}) {
		t.Errorf("ids %v, targets %v", ids, targets)
	}
}

func TestAPermutationHoldsEveryNumberOnce(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 15, 16, 17, 255, 1000, 4097} {
		seen, fixed := make([]bool, n), 0
		p := newPermutation(n, 1, 2)
		for i := range n {
			at := p.at(i)
			if at < 0 || at >= n || seen[at] {
				t.Fatalf("of %d numbers, %d stands at place %d and elsewhere", n, at, i)
			}
			seen[at] = true
			if at == i {
				fixed++
			}
		}
		if n > 100 && fixed > 10 { // one is expected
			t.Errorf("of %d numbers, %d stay in place", n, fixed)
		}
	}
}

func TestNeighboursInAPermutationAreNoNeighbours(t *testing.T) {
	const n = 1000
	p := newPermutation(n, 3, 0)
	near := 0
	for i := range n - 1 {
		if d := p.at(i+1) - p.at(i); -10 <= d && d <= 10 { // 20 in 1000 by chance
			near++
		}
	}
	if near > 60 {
		t.Errorf("%d of %d neighbours are near each other", near, n)
	}
}

func TestTokensInAFileAreReadAsThoseInMemory(t *testing.T) {
	memory := counting(1000)
	memory.IDs[7] = math.MaxInt32
	file := &Tokens{file: bytes.NewReader(appendTokens(nil, memory.IDs...)), n: len(memory.IDs)}
	for _, at := range []struct{ first, n int }{{0, 1}, {0, 1000}, {990, 10}, {990, 40}, {999, 2}, {5, 3000}, {2003, 7}} {
		a, b := make([]int32, at.n), make([]int32, at.n)
		if err := errors.Join(memory.read(a, at.first), file.read(b, at.first)); err != nil {
			t.Fatal(err)
		}
		for i, v := range a {
			if want := memory.IDs[(at.first+i)%1000]; v != want || b[i] != want {
				t.Fatalf("token %d of %d from %d on is %d, in a file %d, want %d", i, at.n, at.first, v, b[i], want)
			}
		}
	}
	short := &Tokens{file: bytes.NewReader(appendTokens(nil, memory.IDs...)[:3999]), n: 1000}
	if err := short.read(make([]int32, 10), 990); !errors.Is(err, io.EOF) {
		t.Errorf("a file that was cut: %v", err)
	}
}

func TestEncodeEndsEveryDocument(t *testing.T) {
	encode := func(s string) (ids []int) {
		for _, f := range strings.Fields(s) {
			ids = append(ids, len(f))
		}
		return ids
	}
	docs := []string{"a bb", "    ", "cccc", "dd  "} // of four bytes each
	for limit, want := range map[int][]int32{0: {1, 2, 9, 9, 4, 9, 2, 9}, 1: {1, 2, 9}, 3: {1, 2, 9}, 4: {1, 2, 9, 9}, 5: {1, 2, 9, 9, 4, 9}, 100: {1, 2, 9, 9, 4, 9, 2, 9}} {
		got := Encode(docs, encode, 9, limit)
		if !slices.Equal(got.IDs, want) {
			t.Errorf("limit %d: %v, want %v", limit, got.IDs, want)
		}
		var bytes int64
		for _, id := range want {
			if id == 9 { // a document's end
				bytes += int64(len(docs[0]))
			}
		}
		if got.Bytes != bytes {
			t.Errorf("limit %d: %d bytes, want %d", limit, got.Bytes, bytes)
		}
	}
}

func TestSplicedWindowsAreOfBothTextsByTurns(t *testing.T) {
	const length, windows = 16, 40
	one, two := counting(length*windows+1), counting(length*windows+1)
	for i := range two.IDs {
		two.IDs[i] += 1 << 20
	}
	recipe := Recipe{Sequences: 5, SplicedSequences: 2, Length: length, Seed: 3}
	r := &run{recipe: recipe, batches: []share{
		{batcher: newBatcher(one, length, 3), sequences: 2, slot: 1}, {batcher: newBatcher(two, length, 3), sequences: 1},
	}}
	rows := recipe.Sequences * length
	r.ids, r.targets, r.slots = make([]int32, rows), make([]int32, rows), make([]int8, rows)
	seen := make(map[int32]int)
	share, starts := 0, 0
	for r.step = range 8 {
		if err := r.draw(); err != nil {
			t.Fatal(err)
		}
		for row, id := range r.ids {
			seen[id]++
			slot := int8(1)
			if id >= 1<<20 {
				slot = 0
			}
			if r.slots[row] != slot {
				t.Fatalf("token %d is of slot %d", id, r.slots[row])
			}
			window, spliced := row/length, row/length >= 3
			if id&(1<<20-1)%length != int32(row%length) {
				t.Fatalf("token %d is at place %d of its window", id, row%length)
			}
			if last := row%length == length-1; last && r.targets[row] != id+1 || !last && r.targets[row] != r.ids[row+1] {
				t.Fatalf("token %d is followed by %d", id, r.targets[row])
			}
			if !spliced && slot != []int8{1, 1, 0}[window] {
				t.Fatalf("window %d has a token of slot %d", window, slot)
			}
			if spliced {
				share += int(slot)
				if row%length == 0 {
					starts += int(slot)
				} else if r.slots[row-1] == slot {
					continue
				}
				if run := slices.IndexFunc(r.slots[row:(window+1)*length], func(s int8) bool { return s != slot }); run >= 0 && (run < length/8 || run > length/2) {
					t.Fatalf("a passage of %d tokens, expected %d to %d", run, length/8, length/2)
				}
			}
		}
	}
	for id, n := range seen {
		if n > 1 {
			t.Errorf("token %d comes %d times in the first epoch", id, n)
		}
	}
	if all := 8 * 2 * length; share < all/4 || share > all*3/4 || starts == 0 || starts == 16 {
		t.Errorf("%d of %d spliced tokens and %d of 16 beginnings are of the first text", share, all, starts)
	}
	before := slices.Clone(r.ids)
	if err := r.draw(); err != nil || !slices.Equal(before, r.ids) {
		t.Errorf("the same step is drawn otherwise, %v", err)
	}
}

func TestRenamedWindowsKeepWhatRepeats(t *testing.T) {
	const length, windows, vocab = 64, 400, 50
	r := &run{recipe: Recipe{Sequences: windows, Length: length, Renamed: 0.25, Seed: 3}, mixture: &model.Mixture{Anchor: &model.Anchor{Config: model.Config{VocabSize: vocab}}}}
	draw := func(step int) (ids, targets []int32) {
		r.step = step
		r.ids, r.targets = make([]int32, windows*length), make([]int32, windows*length)
		for i := range r.ids {
			r.ids[i], r.targets[i] = int32(i*i%vocab), int32((i+1)*(i+1)%vocab)
		}
		r.rename()
		return r.ids, r.targets
	}
	ids, targets := draw(7)
	renamed := 0
	orders := make(map[string]bool)
	for w := range windows {
		names, taken := make(map[int]int32), make(map[int32]bool)
		other := false
		for i := w * length; i < (w+1)*length; i++ {
			for _, p := range []struct {
				was int
				is  int32
			}{{i * i % vocab, ids[i]}, {(i + 1) * (i + 1) % vocab, targets[i]}} {
				name, ok := names[p.was]
				if ok && name != p.is || !ok && taken[p.is] {
					t.Fatalf("window %d: token %d became %d, another of its tokens %d", w, p.was, p.is, name)
				}
				names[p.was], taken[p.is] = p.is, true
				other = other || int(p.is) != p.was
			}
		}
		if other {
			renamed++
			orders[fmt.Sprint(names)] = true
		}
	}
	if renamed < windows/6 || renamed > windows/3 || len(orders) != renamed {
		t.Errorf("%d of %d windows are renamed, in %d ways, expected a quarter, each in its own", renamed, windows, len(orders))
	}
	if again, next := draw(7); !slices.Equal(again, ids) || !slices.Equal(next, targets) {
		t.Error("the same step is renamed otherwise")
	}
	if again, _ := draw(8); slices.Equal(again, ids) {
		t.Error("another step is renamed the same")
	}
}
