package notice

import "testing"

func BenchmarkParseLease(b *testing.B) {
	n := mustSign(b, aLease(), key(1))
	for b.Loop() {
		if _, err := Parse(n.Envelope); err != nil {
			b.Fatal(err)
		}
	}
}
