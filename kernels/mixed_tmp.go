package kernels

func (m Matrix) PackTransposed(f Format) Matrix {
	w := make([]float32, m.Out*m.In)
	row := make([]float32, m.In)
	for i := range m.Out {
		m.Row(row, i)
		for k, v := range row {
			w[k*m.Out+i] = v
		}
	}
	return NewMatrix(m.In, m.Out, w).Pack(f)
}

func (p Matrix) Refill(m Matrix) {
	*p.packed = *m.Mixed().packed
}
