package kernels

// packing2 transposes with AVX2.
var packing2 = packing{gather2, roundPortable, Format.integersPortable}

func gather2(dst []float32, o operand, n, k int) { o.pack(dst, panelWidth, n, k) }

// packing512 has whole blocks in AVX-512.
var packing512 = packing{gather512, round512, integers512}

func gather512(dst []float32, o operand, n, k int) {
	if o.vectors && n == panelWidth {
		o.check(n, k)
		whole := k &^ 15
		if o.half != nil {
			whole = k &^ 31
			if whole > 0 {
				transpose32bf16wide(&dst[0], &o.half[0], o.ld, whole)
			}
		} else if whole > 0 {
			transpose32wide(&dst[0], &o.data[0], o.ld, whole)
		}
		if whole == k {
			return
		}
		o, dst, k = o.from(0, whole), dst[whole*panelWidth:], k-whole
	}
	o.pack(dst, panelWidth, n, k)
}

func round512(words, rows []float32, ld, pairs int) {
	roundpanelwide(&words[:pairs*panelWidth][0], &rows[:(2*pairs-1)*ld+panelWidth][0], ld, pairs)
}

func integers512(f Format, group []byte, rows []float32, ld int) {
	dst, src := &group[:f.groupBytes()][0], &rows[:(groupSize-1)*ld+panelWidth][0]
	if f == Int4 {
		int4panelwide(dst, src, ld)
	} else {
		int8panelwide(dst, src, ld)
	}
}
