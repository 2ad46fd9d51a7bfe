package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// usageOf reads what a process has taken, as proc(5) counts it: in hundredths of a second and pages.
func usageOf(p *process) (u usage, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return u, err
	}
	_, after, _ := strings.Cut(string(b), ") ") // the name before may contain anything
	fields := strings.Fields(after)
	if len(fields) < 22 {
		return u, fmt.Errorf("/proc/%d/stat has %d fields", p.cmd.Process.Pid, len(fields))
	}
	number := func(field int) int64 {
		n, failed := strconv.ParseInt(fields[field-3], 10, 64) // proc(5) counts from 1, and two are before
		if failed != nil {
			err = failed
		}
		return n
	}
	const userTime, systemTime, resident = 14, 15, 24
	u = usage{float64(number(userTime)+number(systemTime)) / 100, number(resident) * int64(os.Getpagesize())}
	return u, err
}
