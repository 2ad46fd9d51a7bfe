//go:build !amd64 && !arm64

package kernels

func tiers() []tier { return []tier{portableTier} }
