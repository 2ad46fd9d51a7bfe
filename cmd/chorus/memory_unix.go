//go:build unix

package main

import (
	"runtime"
	"syscall"
)

// peakMemory is the largest resident memory, in bytes, that this process has had; 0 if that is not known.
func peakMemory() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) * 1024
}
