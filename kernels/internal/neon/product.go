package main

import "fmt"

// tile emits the micro-kernel of a product of matrices: a tile of rows by width columns stays in registers over all
// of k, each step loads B once and multiplies it by single lanes of A. Where B is bfloat16 it is in words of two
// steps, the first in the lower half.
func (p *program) tile(rows, width int, e element) {
	const unroll = 4 // steps
	holds := ""
	if e == bfloat16 {
		holds = " A row of b is words of two steps of k in bfloat16."
	}
	f := p.function(fmt.Sprintf("%stile%dx%d", e.suffix, rows, width), "(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes the %d×%d tile c = a·b, or c += a·b, with a packed as (k, %d) and rows of b and c ldb and ldc apart.%s",
			rows, width, rows, holds))
	k, a, b, ldb := f.load("k"), f.load("a"), f.load("b"), f.load("ldb")
	f.emit("LSL $2, %v", ldb)

	across := width / 4
	acc, bv := f.vecN(rows*across), f.vecN(across)
	free := 32 - len(acc) - len(bv)
	var low, upper vec
	if e == bfloat16 {
		low, upper = f.vec(), f.word(0xffff0000)
		free -= 2
	}
	store := f.openTile(rows, acc)

	// steps emits n steps, loading A for batch of them at a time.
	steps := func(n, batch int) {
		av := f.vecN((batch*rows + 3) / 4)
		for s := range n {
			if s%e.perWord == 0 {
				f.loadAll(b, 0, bv)
				f.emit("ADD %v, %v", ldb, b)
			}
			if s%batch == 0 {
				f.loadFloats(a, s*rows*4, av, batch*rows)
			}
			for j, v := range bv {
				if e == bfloat16 && s%2 == 0 {
					f.emit("VSHL $16, %v.S4, %v.S4", v, low)
					v = low
				} else if e == bfloat16 {
					f.emit("VAND %v.B16, %v.B16, %v.B16", upper, v, v)
				}
				for i := range rows {
					at := s%batch*rows + i
					f.byElement(fmlaElement, acc[i*across+j], v, av[at/4], at%4)
				}
			}
		}
		f.emit("ADD $%d, %v", n*rows*4, a)
		f.release(av...)
	}
	f.emit("SUBS $%d, %v", unroll, k)
	f.emit("BLT rest")
	f.label("loop")
	batch := unroll
	for batch*rows > 4*free {
		batch /= 2
	}
	steps(unroll, batch)
	f.emit("SUBS $%d, %v", unroll, k)
	f.emit("BGE loop")
	f.label("rest")
	f.emit("ADDS $%d, %v", unroll, k)
	f.emit("BEQ store")
	if e == bfloat16 {
		f.emit("TBZ $1, %v, one", k)
		steps(2, 1)
		f.emit("TBZ $0, %v, store", k)
		f.label("one")
		steps(1, 1)
	} else {
		f.label("one")
		steps(1, 1)
		f.emit("SUBS $1, %v", k)
		f.emit("BNE one")
	}
	f.label("store")
	store()
}

// openTile sets the sums of a tile, the registers of rows one after the other, to what c holds or to zero, and returns a
// function that emits the end, which stores them.
func (f *function) openTile(rows int, sums []vec) (store func()) {
	c, ldc, row := f.load("c"), f.load("ldc"), f.reg()
	f.emit("LSL $2, %v", ldc)
	each := func(op func(base r, offset int, low, high vec)) {
		f.emit("MOVD %v, %v", c, row)
		across := len(sums) / rows
		for i := range rows {
			for j := 0; j < across; j += 2 {
				op(row, 16*j, sums[i*across+j], sums[i*across+j+1])
			}
			if i < rows-1 {
				f.emit("ADD %v, %v", ldc, row)
			}
		}
	}
	f.emit("MOVBU %s, R25", f.param("add"))
	f.emit("CBNZ R25, load")
	for _, v := range sums {
		f.zero(v)
	}
	f.emit("JMP start")
	f.label("load")
	each(f.loadPair)
	f.label("start")
	return func() {
		each(f.storePair)
		f.emit("RET")
	}
}

// loadPair loads two registers, storePair stores them.
func (f *function) loadPair(base r, offset int, low, high vec) {
	f.emit("FLDPQ %d(%v), (F%d, F%d)", offset, base, low, high)
}

func (f *function) storePair(base r, offset int, low, high vec) {
	f.emit("FSTPQ (F%d, F%d), %d(%v)", low, high, offset, base)
}

// loadAll loads consecutive memory.
func (f *function) loadAll(base r, offset int, v []vec) {
	for ; len(v) > 1; v = v[2:] {
		f.loadPair(base, offset, v[0], v[1])
		offset += 32
	}
	if len(v) > 0 {
		f.emit("FMOVQ %d(%v), F%d", offset, base, v[0])
	}
}

// loadFloats loads the first n lanes of v from consecutive memory.
func (f *function) loadFloats(base r, offset int, v []vec, n int) {
	f.loadAll(base, offset, v[:n/4])
	if n%4 == 0 {
		return
	}
	last := v[n/4]
	offset += n / 4 * 16
	if n%4 == 1 {
		f.emit("FMOVS %d(%v), F%d", offset, base, last)
		return
	}
	f.emit("FMOVD %d(%v), F%d", offset, base, last)
	if n%4 == 3 {
		f.emit("ADD $%d, %v, R25", offset+8, base)
		f.emit("VLD1 (R25), %v.S[2]", last)
	}
}

// matvec emits a product of sixteen rows with a vector. Rows become lanes on the way, so each
// sum is the chain that a tile forms.
func (p *program) matvec(e element) {
	const rows = 16
	f := p.function("matvec16"+e.suffix, "(y *float32, w *"+e.kind+", ld int, x *float32, k int, add bool)",
		"computes y = w·x, or y += w·x, for 16 rows of w that are ld apart."+e.remark)
	k, x, y := f.load("k"), f.load("x"), f.load("y")
	acc := f.vecN(rows / 4)
	for _, v := range acc {
		f.zero(v)
	}
	f.emit("MOVBU %s, R25", f.param("add"))
	f.emit("CBZ R25, start")
	f.loadAll(y, 0, acc)
	f.label("start")
	g := f.newGather(e, rows)
	g.eachQuad(k, func(quads int) {
		// Two quads of each group, then the next group: four chains at a time.
		for q := 0; q < quads; q += 2 {
			n := min(2, quads-q)
			xv := f.vecN(n * e.perWord)
			f.loadAll(x, 0, xv)
			f.emit("ADD $%d, %v", 16*len(xv), x)
			for group, sum := range acc {
				for half, columns := range g.columns(group, q, n) {
					for c, column := range columns {
						f.byElement(fmlaElement, sum, column, xv[half*e.perWord+c/4], c%4)
					}
					f.release(columns...)
				}
			}
			f.release(xv...)
		}
	}, func() {
		xv := f.vec()
		f.emit("VLD1R (%v), [%v.S4]", x, xv)
		f.emit("ADD $4, %v", x)
		for group, sum := range acc {
			column := g.column(group)
			f.fmla(sum, column, xv)
			f.release(column)
		}
		f.release(xv)
	})
	for i := 0; i < len(acc); i += 2 {
		f.storePair(y, 16*i, acc[i], acc[i+1])
	}
	f.emit("RET")
}
