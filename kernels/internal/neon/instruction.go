package main

import (
	"fmt"
	"strings"
)

// An instruction is one that Go's assembler does not have, on whole registers: its code with
// all registers zero (Arm Architecture Reference Manual, C7.2), and its operands in Arm's notation, the
// destination first, with %d for the registers' numbers.
type instruction struct {
	code uint32
	name string
	form form
}

// A form is the arrangement of an instruction's operands.
type form []string

var (
	floats3  = form{"v%d.4s", "v%d.4s", "v%d.4s"}
	doubles3 = form{"v%d.2d", "v%d.2d", "v%d.2d"}
	bytes3   = form{"v%d.16b", "v%d.16b", "v%d.16b"}
	floats2  = form{"v%d.4s", "v%d.4s"}
	widening = form{"v%d.2d", "v%d.2s"}
	upper    = form{"v%d.2d", "v%d.4s"}
)

var (
	fcmeq  = instruction{0x4e20e400, "fcmeq", floats3} // ones where equal
	fadd   = instruction{0x4e20d400, "fadd", floats3}
	fsub   = instruction{0x4ea0d400, "fsub", floats3}
	fmul   = instruction{0x6e20dc00, "fmul", floats3}
	fdiv   = instruction{0x6e20fc00, "fdiv", floats3}
	fmin   = instruction{0x4ea0f400, "fmin", floats3}   // NaN if either is
	fmaxnm = instruction{0x4e20c400, "fmaxnm", floats3} // leaves NaN aside
	fcmgt  = instruction{0x6ea0e400, "fcmgt", floats3}  // ones where greater
	bic    = instruction{0x4e601c00, "bic", bytes3}     // n and not m
	faddD  = instruction{0x4e60d400, "fadd", doubles3}
	fmlaD  = instruction{0x4e60cc00, "fmla", doubles3}

	fneg    = instruction{0x6ea0f800, "fneg", floats2}
	fsqrt   = instruction{0x6ea1f800, "fsqrt", floats2}
	frintn  = instruction{0x4e218800, "frintn", floats2} // to the nearest integer, ties to even
	fcvtns  = instruction{0x4e21a800, "fcvtns", floats2} // the same, as int32
	scvtf   = instruction{0x4e21d800, "scvtf", floats2}  // of int32
	fcvtl   = instruction{0x0e617800, "fcvtl", widening}
	fcvtl2  = instruction{0x4e617800, "fcvtl2", upper}
	fmaxnmv = instruction{0x6e30c800, "fmaxnmv", form{"s%d", "v%d.4s"}}
	faddp   = instruction{0x7e30d800, "faddp", form{"s%d", "v%d.2s"}}
	faddpD  = instruction{0x7e70d800, "faddp", form{"d%d", "v%d.2d"}}

	umaxv = instruction{0x6eb0a800, "umaxv", form{"s%d", "v%d.4s"}}
	addv  = instruction{0x4eb1b800, "addv", form{"s%d", "v%d.4s"}}
	xtn   = instruction{0x0e612800, "xtn", form{"v%d.4h", "v%d.4s"}}  // the lower halves
	xtn2  = instruction{0x4e612800, "xtn2", form{"v%d.8h", "v%d.4s"}} // the same, to the upper half
	xtnB  = instruction{0x0e212800, "xtn", form{"v%d.8b", "v%d.8h"}}
	xtn2B = instruction{0x4e212800, "xtn2", form{"v%d.16b", "v%d.8h"}}

	smull  = instruction{0x0e20c000, "smull", form{"v%d.8h", "v%d.8b", "v%d.8b"}}
	smull2 = instruction{0x4e20c000, "smull2", form{"v%d.8h", "v%d.16b", "v%d.16b"}}
	addpH  = instruction{0x4e60bc00, "addp", form{"v%d.8h", "v%d.8h", "v%d.8h"}}
	sadalp = instruction{0x4e606800, "sadalp", form{"v%d.4s", "v%d.8h"}} // adds pairs

	ushl  = instruction{0x6ea04400, "ushl", floats3}                        // n by m bits, lane by lane
	halve = instruction{0x4f3f0400, "sshr", form{"v%d.4s", "v%d.4s", "#1"}} // int32
)

// encode returns the code of i on registers, the destination first, and its text.
func (i instruction) encode(v ...vec) (code uint32, text string) {
	code = i.code
	operands := append([]string(nil), i.form...)
	for at, v := range v {
		code |= uint32(v) << [...]int{0, 5, 16}[at]
		operands[at] = fmt.Sprintf(operands[at], int(v))
	}
	return code, i.name + " " + strings.Join(operands, ", ")
}

// A byElement is an instruction on a register and a lane, of 32 bits, of another.
type byElement struct {
	code                 uint32
	name, source, single string
}

var (
	fmlaElement = byElement{0x4f801000, "fmla", "4s", "s"}
	fmulElement = byElement{0x4f809000, "fmul", "4s", "s"}
	sdotElement = byElement{0x4f80e000, "sdot", "16b", "4b"} // of four bytes each, FEAT_DotProd
)

// encode returns the code and text for a and lane of b.
func (i byElement) encode(dst, a, b vec, lane int) (code uint32, text string) {
	code = i.code | uint32(dst) | uint32(a)<<5 | uint32(b)<<16 | uint32(lane&1)<<21 | uint32(lane>>1)<<11
	return code, fmt.Sprintf("%s v%d.4s, v%d.%s, v%d.%s[%d]", i.name, int(dst), int(a), i.source, int(b), i.single, lane)
}

// do adds an instruction, the destination first.
func (f *function) do(i instruction, v ...vec) {
	code, text := i.encode(v...)
	f.emit("WORD $%#08x // %s", code, text)
}

// byElement adds an instruction on a lane of b.
func (f *function) byElement(i byElement, dst, a, b vec, lane int) {
	code, text := i.encode(dst, a, b, lane)
	f.emit("WORD $%#08x // %s", code, text)
}

// fmla adds a·b to dst, fmls subtracts it, with one rounding.
func (f *function) fmla(dst, a, b vec) { f.emit("VFMLA %v.S4, %v.S4, %v.S4", b, a, dst) }
func (f *function) fmls(dst, a, b vec) { f.emit("VFMLS %v.S4, %v.S4, %v.S4", b, a, dst) }
