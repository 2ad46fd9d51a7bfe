package notice

import "testing"

func BenchmarkParseLease(b *testing.B) {
	n := mustSign(b, aLease(), key(1))
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			read, signed, err := readEnvelope(n.Envelope)
			if err != nil || verify(read.Kind, signed) != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			if _, err := Parse(n.Envelope); err != nil {
				b.Fatal(err)
			}
		}
	})
}
