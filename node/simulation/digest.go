package simulation

import (
	"crypto/sha256"
	"slices"
)

// digestOf is the same for two traces that differ in the order of what happened at one moment alone. Each line begins
// with the moment.
func digestOf(lines []string) [sha256.Size]byte {
	sum := sha256.New()
	for _, l := range slices.Sorted(slices.Values(lines)) {
		sum.Write([]byte(l + "\n"))
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
