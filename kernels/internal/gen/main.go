// Command gen writes the amd64 assembly of package kernels: asm_amd64.s and its stubs.
// Run it with go generate in chorus/kernels.
//
// AVX2 stands for AVX2 and FMA. Sums over k are one chain of fused multiply-adds for
// each output in every function that forms products of matrices, so that all of them give the
// same bits.
package main

import "github.com/mmcloughlin/avo/build"

func main() {
	build.ConstraintExpr("amd64")
	for _, e := range []element{float, bfloat16} {
		for rows := 14; rows > 0; rows-- {
			tile(rows, avx512, e)
		}
		for rows := 6; rows > 0; rows-- {
			tile(rows, avx2, e)
		}
	}
	for _, w := range words {
		for rows := 14; rows > 0; rows-- {
			wordTile(rows, w)
		}
	}
	for rows := 3; rows > 0; rows-- {
		spanTileNarrow(rows)
	}
	for _, bits := range []int{8, 4} {
		for rows := 7; rows > 0; rows-- {
			groupTile(rows, bits)
		}
		for rows := 3; rows > 0; rows-- {
			groupTileNarrow(rows, bits)
		}
	}
	roundPairs()
	quantise()
	transposePanel(float)
	transposePanel(bfloat16)
	roundPanel()
	integerPanel(8)
	integerPanel(4)
	pairRows()
	largestMagnitude()
	roundBytes()
	for _, width := range []int{32, 16, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4} {
		copyColumns(width, float)
	}
	for _, width := range []int{32, 16} { // weights are the right side, which is packed to tiles' widths
		copyColumns(width, bfloat16)
	}
	for _, e := range []element{float, bfloat16} {
		pack(8, e)
		pack(4, e)
		matvec(avx512, e)
		matvec(avx2, e)
	}
	vectorFunctions()
	wideFunctions()
	build.Generate()
}
