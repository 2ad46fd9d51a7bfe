package main

import "fmt"

// An element is a type of weights.
type element struct {
	kind, suffix, remark string
	perWord              int // elements in a word of 32 bits
}

var (
	float    = element{"float32", "", "", 1}
	bfloat16 = element{"uint16", "bf16", " The weights are bfloat16.", 2}
)

// shift is the logarithm of an element's size.
func (e element) shift() int { return 3 - e.perWord }

// A gather reads groups of four rows of weights and returns them as columns: rows become lanes.
type gather struct {
	f    *function
	e    element
	rows []r // where each row is to be read next
}

// newGather loads the parameters that give the rows, w or src and ld.
func (f *function) newGather(e element, rows int) gather {
	g := gather{f, e, nil}
	name := "w"
	if _, ok := f.offsets[name]; !ok {
		name = "src"
	}
	ld := r(24)
	f.emit("MOVD %s, %v", f.param("ld"), ld)
	f.emit("LSL $%d, %v", e.shift(), ld)
	for i := range rows {
		at := f.reg()
		if i == 0 {
			f.emit("MOVD %s, %v", f.param(name), at)
		} else {
			f.emit("ADD %v, %v, %v", ld, g.rows[i-1], at)
		}
		g.rows = append(g.rows, at)
	}
	return g
}

func (g gather) advance(bytes int) {
	for _, at := range g.rows {
		g.f.emit("ADD $%d, %v", bytes, at)
	}
}

// eachQuad emits the loops over k columns: by four registers of each row, which is a cache line, so that
// rows whose distance is a multiple of a page, which compete for the same few places in the cache,
// read each line in one go; then by one register; then by one column.
func (g gather) eachQuad(k r, quads func(n int), one func()) {
	f := g.f
	for _, n := range []int{4, 1} {
		columns := n * 4 * g.e.perWord
		f.emit("SUBS $%d, %v", columns, k)
		f.emit("BLT less%d", n)
		f.label(fmt.Sprint("by", n))
		quads(n)
		g.advance(16 * n)
		f.emit("SUBS $%d, %v", columns, k)
		f.emit("BGE by%d", n)
		f.label(fmt.Sprint("less", n))
		f.emit("ADDS $%d, %v", columns, k)
		f.emit("BEQ done")
	}
	f.label("one")
	one()
	g.advance(4 / g.e.perWord)
	f.emit("SUBS $1, %v", k)
	f.emit("BNE one")
	f.label("done")
}

// columns returns the columns of n quads, one or two, of a group of rows, from quad q on: the registers of
// each quad, in order.
func (g gather) columns(group, q, n int) [][]vec {
	f := g.f
	var words [2][4]vec // by quad and row
	for row := range 4 {
		at := g.rows[4*group+row]
		v := f.vecN(n)
		f.loadAll(at, 16*q, v)
		for i, v := range v {
			words[i][row] = v
		}
	}
	var all [][]vec
	for _, w := range words[:n] {
		t := f.transpose(w)
		f.release(w[:]...)
		all = append(all, g.widen(t))
	}
	return all
}

// transpose returns the columns of four rows.
func (f *function) transpose(w [4]vec) []vec {
	t, o := f.vecN(4), f.vecN(4)
	for i := range 2 {
		f.emit("VTRN1 %v.S4, %v.S4, %v.S4", w[2*i+1], w[2*i], t[2*i])
		f.emit("VTRN2 %v.S4, %v.S4, %v.S4", w[2*i+1], w[2*i], t[2*i+1])
	}
	for i := range 2 {
		f.emit("VTRN1 %v.D2, %v.D2, %v.D2", t[2+i], t[i], o[i])
		f.emit("VTRN2 %v.D2, %v.D2, %v.D2", t[2+i], t[i], o[2+i])
	}
	f.release(t...)
	return o
}

// widen turns columns of words into columns of float32: a bfloat16 is the upper half of one.
func (g gather) widen(words []vec) []vec {
	if g.e.perWord == 1 {
		return words
	}
	var columns []vec
	upper := g.f.word(0xffff0000)
	for _, high := range words {
		low := g.f.vec()
		g.f.emit("VSHL $16, %v.S4, %v.S4", high, low)
		g.f.emit("VAND %v.B16, %v.B16, %v.B16", upper, high, high)
		columns = append(columns, low, high)
	}
	return columns
}

// column returns one column of a group of rows.
func (g gather) column(group int) vec {
	f, v := g.f, g.f.vec()
	f.zero(v)
	for row, at := range g.rows[4*group:][:4] {
		if g.e.perWord == 2 {
			f.emit("VLD1 (%v), %v.H[%d]", at, v, 2*row+1)
		} else {
			f.emit("VLD1 (%v), %v.S[%d]", at, v, row)
		}
	}
	return v
}

// pack emits a transposition: rows become lanes.
func (p *program) pack(rows int, e element) {
	f := p.function(fmt.Sprintf("pack%d%s", rows, e.suffix), "(dst *float32, stride int, src *"+e.kind+", ld, k int)",
		fmt.Sprintf("stores column i of the %d×k matrix src, whose rows are ld apart, in dst[i·stride:].", rows)+e.remark)
	dst, stride, k := f.load("dst"), f.load("stride"), f.load("k")
	f.emit("LSL $2, %v", stride)
	store := func(v ...vec) {
		if len(v) == 2 {
			f.storePair(dst, 0, v[0], v[1])
		} else {
			f.emit("FMOVQ F%d, (%v)", v[0], dst)
		}
		f.emit("ADD %v, %v", stride, dst)
		f.release(v...)
	}
	g := f.newGather(e, rows)
	g.eachQuad(k, func(quads int) {
		for q := range quads {
			low := g.columns(0, q, 1)[0]
			if rows == 4 {
				for _, column := range low {
					store(column)
				}
				continue
			}
			for c, column := range g.columns(1, q, 1)[0] {
				store(low[c], column)
			}
		}
	}, func() {
		var v []vec
		for group := range rows / 4 {
			v = append(v, g.column(group))
		}
		store(v...)
	})
	f.emit("RET")
}

// copyColumns emits a copy of k rows of width elements into consecutive memory.
func (p *program) copyColumns(width int, e element) {
	f := p.function(fmt.Sprintf("copy%d%s", width, e.suffix), "(dst *float32, src *"+e.kind+", ld, k int)",
		fmt.Sprintf("copies the first %d elements of k ≥ 1 rows that are ld apart to dst, one after the other.", width)+e.remark)
	dst, src, ld, k := f.load("dst"), f.load("src"), f.load("ld"), f.load("k")
	f.emit("LSL $%d, %v", e.shift(), ld)
	v := f.vecN((width + 3) / 4)
	var none vec
	if e == bfloat16 {
		none = f.word(0)
	}
	f.label("loop")
	if e == bfloat16 {
		whole := f.vecN(width / 8)
		f.loadAll(src, 0, whole)
		for i, w := range whole {
			f.emit("VZIP1 %v.H8, %v.H8, %v.H8", w, none, v[2*i])
			f.emit("VZIP2 %v.H8, %v.H8, %v.H8", w, none, v[2*i+1])
		}
	} else {
		f.loadFloats(src, 0, v, width)
	}
	for i, v := range v {
		if width-4*i < 4 {
			f.emit("FMOVD F%d, %d(%v)", v, 16*i, dst)
		} else {
			f.emit("FMOVQ F%d, %d(%v)", v, 16*i, dst)
		}
	}
	f.emit("ADD $%d, %v", width*4, dst)
	f.emit("ADD %v, %v", ld, src)
	f.emit("SUBS $1, %v", k)
	f.emit("BNE loop")
	f.emit("RET")
}
