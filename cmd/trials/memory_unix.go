//go:build unix

package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// peakMemory is the largest resident memory that a process had.
func peakMemory(p *os.ProcessState) string {
	u, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return "unknown"
	}
	unit := int64(1024)
	if runtime.GOOS == "darwin" {
		unit = 1
	}
	return fmt.Sprintf("%d MB", int64(u.Maxrss)*unit/1e6)
}
