package main

import "fmt"

// An integer is a format of weights in groups of 32 steps that share a scale, see quant.go of package kernels.
type integer struct {
	name    string
	vectors int    // of a panel's width in a group, besides the scales; inputs are 8 words
	byte    uint32 // in each byte of a word: what makes bytes signed, or the lower half
	plain   bool   // for processors without dot products of bytes
}

var (
	int8s = integer{"int8", 8, 0x80, false}
	int4s = integer{"int4", 4, 0x0f, false}
)

// without returns e for processors without dot products of bytes.
func (e integer) without() integer {
	e.plain = true
	return e
}

func (e integer) signed() bool { return e.vectors == 8 }

// integerTile emits the micro-kernel of a product with integers: sums of a group are exact, in a register each beside the
// tile's. Bytes that are raised by 128 become signed by turning their upper bit, and sums begin with zero; those that are
// raised by 8 are taken as they are, and sums begin with what group of inputs says.
func (p *program) integerTile(rows, width int, e integer) {
	const scales, panel = 64, 128 // bytes
	name := fmt.Sprintf("%stile%dx%d", e.name, rows, width)
	if e.plain {
		name += "plain"
	}
	f := p.function(name, "(groups int, a *float32, b *byte, column int, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes the %d×%d tile c = a·b, or c += a·b, over groups of inputs, packed as (words, %d), and from the given column of a panel on.",
			rows, width, rows))
	groups, a, b, column, data := f.load("groups"), f.load("a"), f.load("b"), f.load("column"), f.reg()
	across := width / 4
	total, part := f.vecN(rows*across), f.vecN(rows*across)
	batch := max(8/rows, 8/e.vectors) // words of inputs that are loaded at a time
	w, av := f.vec(), f.vecN((batch*rows+3)/4)
	var lower vec
	if !e.signed() {
		lower = f.vec()
	}
	var x, low, high vec
	if e.plain {
		x, low, high = f.vec(), f.vec(), f.vec()
	}
	bits, upper := f.word(e.byte*0x01010101), f.word(0xffff0000)

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
	store := f.openTile(rows, total)

	f.label("group")
	if !e.signed() {
		f.loadFloats(a, 4*rows, av, rows)
	}
	for i, v := range part {
		if row := i / across; !e.signed() {
			f.emit("VDUP %v.S[%d], %v.S4", av[row/4], row%4, v)
		} else {
			f.zero(v)
		}
	}
	multiply := func(j, word int, v vec) {
		for i := range rows {
			at := word%batch*rows + i
			if !e.plain {
				f.byElement(sdotElement, part[i*across+j], v, av[at/4], at%4)
				continue
			}
			// Two products of bytes fit in 16 bits.
			f.emit("VDUP %v.S[%d], %v.S4", av[at/4], at%4, x)
			f.do(smull, low, v, x)
			f.do(smull2, high, v, x)
			f.do(addpH, low, low, high)
			f.do(sadalp, part[i*across+j], low)
		}
	}
	words := 8 / e.vectors // of inputs, for each vector
	for v := range e.vectors {
		if v*words%batch == 0 {
			f.loadFloats(a, (2+v*words)*4*rows, av, batch*rows)
		}
		for j := range across {
			f.emit("FMOVQ %d(%v), F%d", 16*j, data, w)
			if e.signed() {
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
	store()
}

// quantise emits the rounding of inputs to groups of integers.
func (p *program) quantise() {
	f := p.function("quantise", "(groups int, dst, x *float32, raised int32)",
		"stores groups of 32 inputs as groups of integers and their scales, for weights that are raised by so much.")
	groups, dst, x, raised := f.load("groups"), f.load("dst"), f.load("x"), f.reg()
	f.emit("MOVW %s, %v", f.param("raised"), raised)
	magnitude, least, none := f.word(0x7fffffff), f.constant(1e-30), f.word(0xffffff80)
	v, largest, t := f.vecN(8), f.vec(), f.vec()
	f.label("group")
	f.loadAll(x, 0, v)
	f.emit("ADD $128, %v", x)
	// As integers, magnitudes are in order and NaN is the largest.
	f.move(least, largest)
	for _, v := range v {
		f.emit("VAND %v.B16, %v.B16, %v.B16", magnitude, v, t)
		f.emit("VUMAX %v.S4, %v.S4, %v.S4", t, largest, largest)
	}
	f.do(umaxv, largest, largest)
	f.emit("VDUP %v.S[0], %v.S4", largest, largest)
	inverse, ordered, sum := f.vec(), f.vec(), f.vec()
	f.do(fdiv, inverse, f.constant(127), largest)
	f.do(fmul, largest, largest, f.constant(1.0/127))
	f.emit("FMOVS F%d, (%v)", largest, dst)
	f.zero(sum)
	for _, v := range v {
		f.do(fmul, v, v, inverse)
		f.do(fcmeq, ordered, v, v)
		f.do(fcvtns, v, v)
		f.emit("VBIF %v.B16, %v.B16, %v.B16", ordered, none, v)
		f.emit("VADD %v.S4, %v.S4, %v.S4", v, sum, sum)
	}
	for i := 0; i < len(v); i += 4 {
		f.do(xtn, v[i], v[i])
		f.do(xtn2, v[i], v[i+1])
		f.do(xtn, v[i+2], v[i+2])
		f.do(xtn2, v[i+2], v[i+3])
		f.do(xtnB, v[i], v[i])
		f.do(xtn2B, v[i], v[i+2])
	}
	f.emit("FSTPQ (F%d, F%d), 8(%v)", v[0], v[4], dst)
	f.do(addv, sum, sum)
	f.emit("VMOV %v.S[0], R25", sum)
	f.emit("MULW %v, R25", raised)
	f.emit("NEGW R25, R25")
	f.emit("MOVW R25, 4(%v)", dst)
	f.emit("ADD $40, %v", dst)
	f.emit("SUBS $1, %v", groups)
	f.emit("BNE group")
	f.emit("RET")
}
