package main

import "testing"

// The codes are those that LLVM's assembler gives for the texts.
func TestInstructionsHaveTheCodesOfAnotherAssembler(t *testing.T) {
	check := func(code, want uint32, text, wantText string) {
		t.Helper()
		if code != want || text != wantText {
			t.Errorf("%#08x %s, want %#08x %s", code, text, want, wantText)
		}
	}
	for _, c := range []struct {
		i    instruction
		v    []vec
		code uint32
		text string
	}{
		{fadd, []vec{5, 18, 31}, 0x4e3fd645, "fadd v5.4s, v18.4s, v31.4s"},
		{fsub, []vec{5, 18, 31}, 0x4ebfd645, "fsub v5.4s, v18.4s, v31.4s"},
		{fmul, []vec{5, 18, 31}, 0x6e3fde45, "fmul v5.4s, v18.4s, v31.4s"},
		{fdiv, []vec{5, 18, 31}, 0x6e3ffe45, "fdiv v5.4s, v18.4s, v31.4s"},
		{fmin, []vec{5, 18, 31}, 0x4ebff645, "fmin v5.4s, v18.4s, v31.4s"},
		{fmaxnm, []vec{5, 18, 31}, 0x4e3fc645, "fmaxnm v5.4s, v18.4s, v31.4s"},
		{fcmgt, []vec{5, 18, 31}, 0x6ebfe645, "fcmgt v5.4s, v18.4s, v31.4s"},
		{bic, []vec{5, 18, 31}, 0x4e7f1e45, "bic v5.16b, v18.16b, v31.16b"},
		{faddD, []vec{5, 18, 31}, 0x4e7fd645, "fadd v5.2d, v18.2d, v31.2d"},
		{fmlaD, []vec{5, 18, 31}, 0x4e7fce45, "fmla v5.2d, v18.2d, v31.2d"},
		{fneg, []vec{5, 18}, 0x6ea0fa45, "fneg v5.4s, v18.4s"},
		{fsqrt, []vec{5, 18}, 0x6ea1fa45, "fsqrt v5.4s, v18.4s"},
		{frintn, []vec{5, 18}, 0x4e218a45, "frintn v5.4s, v18.4s"},
		{fcvtns, []vec{5, 18}, 0x4e21aa45, "fcvtns v5.4s, v18.4s"},
		{fcvtl, []vec{5, 18}, 0x0e617a45, "fcvtl v5.2d, v18.2s"},
		{fcvtl2, []vec{5, 18}, 0x4e617a45, "fcvtl2 v5.2d, v18.4s"},
		{fmaxnmv, []vec{5, 18}, 0x6e30ca45, "fmaxnmv s5, v18.4s"},
		{faddp, []vec{5, 18}, 0x7e30da45, "faddp s5, v18.2s"},
		{faddpD, []vec{5, 18}, 0x7e70da45, "faddp d5, v18.2d"},
		{scvtf, []vec{5, 18}, 0x4e21da45, "scvtf v5.4s, v18.4s"},
		{ushl, []vec{5, 18, 31}, 0x6ebf4645, "ushl v5.4s, v18.4s, v31.4s"},
		{fcmeq, []vec{5, 18, 31}, 0x4e3fe645, "fcmeq v5.4s, v18.4s, v31.4s"},
		{umaxv, []vec{5, 18}, 0x6eb0aa45, "umaxv s5, v18.4s"},
		{addv, []vec{5, 18}, 0x4eb1ba45, "addv s5, v18.4s"},
		{xtn, []vec{5, 18}, 0x0e612a45, "xtn v5.4h, v18.4s"},
		{xtn2, []vec{5, 18}, 0x4e612a45, "xtn2 v5.8h, v18.4s"},
		{xtnB, []vec{5, 18}, 0x0e212a45, "xtn v5.8b, v18.8h"},
		{xtn2B, []vec{5, 18}, 0x4e212a45, "xtn2 v5.16b, v18.8h"},
		{smull, []vec{5, 18, 31}, 0x0e3fc245, "smull v5.8h, v18.8b, v31.8b"},
		{smull2, []vec{5, 18, 31}, 0x4e3fc245, "smull2 v5.8h, v18.16b, v31.16b"},
		{addpH, []vec{5, 18, 31}, 0x4e7fbe45, "addp v5.8h, v18.8h, v31.8h"},
		{sadalp, []vec{5, 18}, 0x4e606a45, "sadalp v5.4s, v18.8h"},
		{halve, []vec{5, 18}, 0x4f3f0645, "sshr v5.4s, v18.4s, #1"},
	} {
		code, text := c.i.encode(c.v...)
		check(code, c.code, text, c.text)
	}
	for _, c := range []struct {
		i    byElement
		lane int
		code uint32
		text string
	}{
		{fmlaElement, 0, 0x4f9f1245, "fmla v5.4s, v18.4s, v31.s[0]"},
		{fmlaElement, 1, 0x4fbf1245, "fmla v5.4s, v18.4s, v31.s[1]"},
		{fmlaElement, 2, 0x4f9f1a45, "fmla v5.4s, v18.4s, v31.s[2]"},
		{fmlaElement, 3, 0x4fbf1a45, "fmla v5.4s, v18.4s, v31.s[3]"},
		{fmulElement, 0, 0x4f9f9245, "fmul v5.4s, v18.4s, v31.s[0]"},
		{fmulElement, 1, 0x4fbf9245, "fmul v5.4s, v18.4s, v31.s[1]"},
		{fmulElement, 2, 0x4f9f9a45, "fmul v5.4s, v18.4s, v31.s[2]"},
		{fmulElement, 3, 0x4fbf9a45, "fmul v5.4s, v18.4s, v31.s[3]"},
		{sdotElement, 0, 0x4f9fe245, "sdot v5.4s, v18.16b, v31.4b[0]"},
		{sdotElement, 1, 0x4fbfe245, "sdot v5.4s, v18.16b, v31.4b[1]"},
		{sdotElement, 2, 0x4f9fea45, "sdot v5.4s, v18.16b, v31.4b[2]"},
		{sdotElement, 3, 0x4fbfea45, "sdot v5.4s, v18.16b, v31.4b[3]"},
	} {
		code, text := c.i.encode(5, 18, 31, c.lane)
		check(code, c.code, text, c.text)
	}
}
