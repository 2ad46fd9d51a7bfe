package main

import "fmt"

// An integer is a format of weights in groups of 32 steps that share a scale, see quant.go of package kernels.
type integer struct {
	name    string
	vectors int    // of a panel's width in a group, besides the scales; inputs are 8 words
	byte    uint32 // in each byte of a word: what makes bytes signed, or the lower half
}

var (
	int8s = integer{"int8", 8, 0x80}
	int4s = integer{"int4", 4, 0x0f}
)

// integerTile emits the micro-kernel of a product with integers: sums of a group are exact, in a register each beside the
// tile's. Bytes that are raised by 128 become signed by turning their upper bit, and sums begin with zero; those that are
// raised by 8 are taken as they are, and sums begin with what group of inputs says.
func (p *program) integerTile(rows, width int, e integer) {
	const scales, panel = 64, 128 // bytes
	f := p.function(fmt.Sprintf("%stile%dx%d", e.name, rows, width), "(groups int, a *float32, b *byte, column int, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes the %d×%d tile c = a·b, or c += a·b, over groups of inputs, packed as (words, %d), and from the given column of a panel on.",
			rows, width, rows))
	groups, a, b, column, c, ldc := f.load("groups"), f.load("a"), f.load("b"), f.load("column"), f.load("c"), f.load("ldc")
	data, add, cr := f.reg(), f.reg(), f.reg()
	across := width / 4
	total, part := f.vecN(rows*across), f.vecN(rows*across)
	batch := max(8/rows, 8/e.vectors) // words of inputs that are loaded at a time
	w, av := f.vec(), f.vecN((batch*rows+3)/4)
	var lower vec
	if e == int4s {
		lower = f.vec()
	}
	bits, upper := f.word(e.byte*0x01010101), f.word(0xffff0000)

	f.emit("MOVBU %s, %v", f.param("add"), add)
	f.emit("LSL $2, %v", ldc)
	f.emit("ADD %v<<2, %v, %v", column, b, data)
	f.emit("ADD $%d, %v", scales, data)
	var shift vec
	if width < 32 {
		// The scales of the first sixteen columns are the lower halves of words.
		shift = f.vec()
		f.emit("MOVD $16, R25")
		f.emit("CMP R25, %v", column)
		f.emit("BLT shift")
		f.emit("SUB $16, %v", column)
		f.emit("MOVD $0, R25")
		f.label("shift")
		f.emit("VDUP R25, %v.S4", shift)
		f.emit("ADD %v<<2, %v", column, b)
	}
	eachPair := func(op func(c r, offset int, low, high vec)) {
		f.emit("MOVD %v, %v", c, cr)
		for i := range rows {
			for j := 0; j < across; j += 2 {
				op(cr, 16*j, total[i*across+j], total[i*across+j+1])
			}
			if i < rows-1 {
				f.emit("ADD %v, %v", ldc, cr)
			}
		}
	}
	f.emit("CBNZ %v, load", add)
	for _, v := range total {
		f.zero(v)
	}
	f.emit("JMP group")
	f.label("load")
	eachPair(f.loadPair)

	f.label("group")
	if e == int4s {
		f.loadFloats(a, 4*rows, av, rows)
	}
	for i, v := range part {
		if row := i / across; e == int4s {
			f.emit("VDUP %v.S[%d], %v.S4", av[row/4], row%4, v)
		} else {
			f.zero(v)
		}
	}
	multiply := func(j, word int, v vec) {
		for i := range rows {
			at := word%batch*rows + i
			f.byElement(sdotElement, part[i*across+j], v, av[at/4], at%4)
		}
	}
	words := 8 / e.vectors // of inputs, for each vector
	for v := range e.vectors {
		if v*words%batch == 0 {
			f.loadFloats(a, (2+v*words)*4*rows, av, batch*rows)
		}
		for j := range across {
			f.emit("FMOVQ %d(%v), F%d", 16*j, data, w)
			if e == int8s {
				f.emit("VEOR %v.B16, %v.B16, %v.B16", bits, w, w)
				multiply(j, v, w)
				continue
			}
			f.emit("VAND %v.B16, %v.B16, %v.B16", bits, w, lower)
			multiply(j, 2*v, lower)
			f.emit("VUSHR $4, %v.B16, %v.B16", w, w)
			multiply(j, 2*v+1, w)
		}
		f.emit("ADD $%d, %v", panel, data)
	}
	f.emit("ADD $%d, %v", scales, data)

	// What is exact becomes float32, times the scale of the inputs, times that of the weights: three roundings.
	f.loadFloats(a, 0, av, rows)
	for j := range across {
		f.emit("FMOVQ %d(%v), F%d", 16*(j%4), b, w)
		switch {
		case width < 32:
			f.do(ushl, w, w, shift)
			f.emit("VAND %v.B16, %v.B16, %v.B16", upper, w, w)
		case j < 4:
			f.emit("VSHL $16, %v.S4, %v.S4", w, w)
		default:
			f.emit("VAND %v.B16, %v.B16, %v.B16", upper, w, w)
		}
		for i := range rows {
			at := i*across + j
			f.do(scvtf, part[at], part[at])
			f.byElement(fmulElement, part[at], part[at], av[i/4], i%4)
			f.do(fmul, part[at], part[at], w)
			f.do(fadd, total[at], total[at], part[at])
		}
	}
	f.emit("ADD $%d, %v", 10*4*rows, a)
	f.emit("ADD $%d, %v", scales+e.vectors*panel, b)
	f.emit("SUBS $1, %v", groups)
	f.emit("BNE group")
	eachPair(f.storePair)
	f.emit("RET")
}
