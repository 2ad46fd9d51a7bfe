package main

import "fmt"

// width is that of a tile, in registers.
const width = 4

// tile emits the micro-kernel of a product of matrices: a tile of rows by four registers stays in
// registers over all of k, each step loads B once and multiplies it by single lanes of A.
func (p *program) tile(rows int) {
	const unroll = 4
	f := p.function(fmt.Sprintf("tile%dx%d", rows, 4*width), "(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes the %d×%d tile c = a·b, or c += a·b, with a packed as (k, %d) and rows of b and c ldb and ldc apart.",
			rows, 4*width, rows))
	k, a, b, ldb, c, ldc, add := f.load("k"), f.load("a"), f.load("b"), f.load("ldb"), f.load("c"), f.load("ldc"), f.reg()
	f.emit("MOVBU %s, %v", f.param("add"), add)
	f.emit("LSL $2, %v", ldb)
	f.emit("LSL $2, %v", ldc)

	acc, bv := f.vecN(rows*width), f.vecN(width)
	cr := f.reg()
	eachPair := func(op func(c r, offset int, low, high vec)) {
		f.emit("MOVD %v, %v", c, cr)
		for i := range rows {
			for j := 0; j < width; j += 2 {
				op(cr, 16*j, acc[i*width+j], acc[i*width+j+1])
			}
			if i < rows-1 {
				f.emit("ADD %v, %v", ldc, cr)
			}
		}
	}
	f.emit("CBNZ %v, load", add)
	for _, v := range acc {
		f.zero(v)
	}
	f.emit("JMP start")
	f.label("load")
	eachPair(f.loadPair)

	// step is a step of k; element i of A's column is lane i%4 of av[i/4], from first on.
	step := func(av []vec, first int) {
		for j := 0; j < width; j += 2 {
			f.loadPair(b, 16*j, bv[j], bv[j+1])
		}
		f.emit("ADD %v, %v", ldb, b)
		for i := range rows {
			for j, v := range bv {
				f.fmlaByElement(acc[i*width+j], v, av[(first+i)/4], (first+i)%4)
			}
		}
	}
	f.label("start")
	f.emit("SUBS $%d, %v", unroll, k)
	f.emit("BLT rest")
	f.label("loop")
	batch := unroll // steps for which A is loaded at once
	if free := 32 - len(acc) - len(bv); batch*rows > 4*free {
		batch /= 2
	}
	av := f.vecN(batch * rows / 4)
	for s := range unroll {
		if s%batch == 0 {
			f.loadAll(a, s*rows*4, av)
		}
		step(av, s%batch*rows)
	}
	f.emit("ADD $%d, %v", unroll*rows*4, a)
	f.emit("SUBS $%d, %v", unroll, k)
	f.emit("BGE loop")
	f.label("rest")
	f.emit("ADDS $%d, %v", unroll, k)
	f.emit("BEQ store")
	f.label("one")
	f.release(av...)
	av = f.vecN((rows + 3) / 4)
	for i := 0; i < rows; i += 4 {
		f.loadSome(a, i*4, av[i/4], min(4, rows-i))
	}
	step(av, 0)
	f.emit("ADD $%d, %v", rows*4, a)
	f.emit("SUBS $1, %v", k)
	f.emit("BNE one")
	f.label("store")
	eachPair(f.storePair)
	f.emit("RET")
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

// loadSome loads the first n lanes.
func (f *function) loadSome(base r, offset int, v vec, n int) {
	switch n {
	case 1:
		f.emit("FMOVS %d(%v), F%d", offset, base, v)
	case 2, 3:
		f.emit("FMOVD %d(%v), F%d", offset, base, v)
		if n == 3 {
			f.emit("ADD $%d, %v, R25", offset+8, base)
			f.emit("VLD1 (R25), %v.S[2]", v)
		}
	case 4:
		f.emit("FMOVQ %d(%v), F%d", offset, base, v)
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
						f.fmlaByElement(sum, column, xv[half*e.perWord+c/4], c%4)
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
