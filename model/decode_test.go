package model

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkDecode is the speed at which one sequence grows, by 128 tokens after a prompt of 64, on
// a model of the size that package train's AnchorConfig gives, with 0, 1 and 3 experts, and with
// the best 2 of 4 slots.
func BenchmarkDecode(b *testing.B) {
	for _, test := range []struct {
		name        string
		slots, topK int
	}{{"anchor", 1, 1}, {"2 slots", 2, 2}, {"4 slots", 4, 4}, {"2 of 4 slots", 4, 2}} {
		b.Run(test.name, func(b *testing.B) {
			c := testConfig(1024, 96, 256, 3, 3, 3)
			m, _ := randomMixture(b, c, test.slots, test.topK)
			const prompt, tokens = 64, 128
			ids := randomIDs(rand.New(rand.NewPCG(3, 4)), prompt, c.VocabSize)
			m.Anchor.Rope()
			n := 0
			for b.Loop() {
				b.StopTimer()
				s := m.NewSequence()
				if _, err := s.Extend(ids); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				for i := range tokens {
					if _, err := s.Extend(ids[i%prompt:][:1]); err != nil {
						b.Fatal(err)
					}
				}
				n += tokens
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
