//go:build !amd64

package kernels

func tiers() []tier { return []tier{portableTier} }
