// Command neon writes the arm64 assembly of package kernels: asm_arm64.s and its stubs.
// Run it with go generate in chorus/kernels/internal/neon.
//
// Some tiles of integers need FEAT_DotProd, the rest no more than every arm64 processor has. Sums are formed in the order of the amd64 functions:
// those over k are one chain of fused multiply-adds for each output, so that all functions that form
// products of matrices give the same bits, and what is a step of eight lanes there is two registers here.
package main

import (
	"log"
	"os"
)

//go:generate go run .

func main() {
	var p program
	for rows := 6; rows > 0; rows-- {
		p.tile(rows, 16, float)
	}
	for rows := 6; rows > 2; rows-- {
		p.tile(rows, 16, bfloat16)
	}
	for _, e := range []element{float, bfloat16} { // so few rows read packed weights from end to end
		p.tile(2, 32, e)
		p.tile(1, 32, e)
	}
	for _, e := range []integer{int8s, int4s} {
		for rows := 6; rows > 3; rows-- {
			p.integerTile(rows, 8, e)
		}
		p.integerTile(3, 16, e)
		p.integerTile(4, 8, e.without())
		p.integerTile(3, 8, e.without())
		for _, e := range []integer{e, e.without()} {
			p.integerTile(2, 16, e)
			p.integerTile(1, 32, e)
		}
	}
	p.quantise()
	for _, width := range []int{16, 6, 4} {
		p.copyColumns(width, float)
	}
	p.copyColumns(16, bfloat16) // weights are the right side, which is packed to tiles' widths
	for _, e := range []element{float, bfloat16} {
		p.pack(8, e)
		p.pack(4, e)
		p.matvec(e)
	}
	p.vectorFunctions()
	for name, text := range map[string]string{"asm_arm64.s": p.assembly(), "asm_arm64.go": p.stubs()} {
		if err := os.WriteFile("../../"+name, []byte(text), 0o666); err != nil {
			log.Fatal(err)
		}
	}
}
