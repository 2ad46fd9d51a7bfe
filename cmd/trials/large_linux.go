package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// freeBytes is how many bytes may be written in dir.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// dropCaches makes the system forget what it has read of files. It needs root.
func dropCaches() error {
	unix.Sync()
	f, err := os.OpenFile("/proc/sys/vm/drop_caches", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("3\n")
	return err
}

// thisMemory is the resident memory of this process: its largest, and now the collector's and that of mapped files.
func thisMemory() (peak, anonymous, mapped int64, err error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0, 0, err
	}
	fields := map[string]*int64{"VmHWM:": &peak, "RssAnon:": &anonymous, "RssFile:": &mapped}
	for line := range strings.Lines(string(b)) {
		var name string
		var kilobytes int64
		if n, _ := fmt.Sscan(line, &name, &kilobytes); n == 2 && fields[name] != nil {
			*fields[name] = kilobytes << 10
			delete(fields, name)
		}
	}
	if len(fields) > 0 {
		return 0, 0, 0, fmt.Errorf("/proc/self/status: expected VmHWM, RssAnon and RssFile")
	}
	return peak, anonymous, mapped, nil
}

// peakBytes is [peakMemory] as a number.
func peakBytes(p *os.ProcessState) int64 { return p.SysUsage().(*syscall.Rusage).Maxrss << 10 }
