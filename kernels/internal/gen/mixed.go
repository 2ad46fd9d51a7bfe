package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pairRows emits the rounding of columns to bfloat16, two rows side by side in a word.
func pairRows() {
	const name = "pairswide"
	at := label(name)
	TEXT(name, NOSPLIT, "func(words int, dst, src *float32, ld, n int)")
	Doc(name + " stores n ≤ 16 columns of src, (2·words, ld), as (words, n) words of two rows, rounded to bfloat16. words is at least 1.")
	Pragma("noescape")
	order := GLOBL("alternating", RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U16(uint16(i)))
		DATA(4*i+2, U16(uint16(i+16)))
	}
	n := Load(Param("n"), reg.RCX)
	mask, stride := GP64(), GP64()
	MOVQ(I32(1), mask)
	SHLQ(reg.CL, mask)
	DECQ(mask)
	KMOVW(mask.As32(), reg.K1)
	MOVQ(n, stride)
	SHLQ(Imm(2), stride)
	words := Load(Param("words"), GP64())
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	SHLQ(Imm(2), ld)
	VMOVDQU16(order, z[3])
	Label(string(at("loop")))
	VMOVUPS_Z(Mem{Base: src}, reg.K1, z[0])
	VMOVUPS_Z(Mem{Base: src, Index: ld, Scale: 1}, reg.K1, z[1])
	vcvtne2ps2bf16.registers(2, 1, 0)
	VPERMW(z[2], z[3], z[2])
	VMOVUPS(z[2], reg.K1, Mem{Base: dst})
	LEAQ(Mem{Base: src, Index: ld, Scale: 2}, src)
	ADDQ(stride, dst)
	DECQ(words)
	JNZ(at("loop"))
	VZEROUPPER()
	RET()
}
