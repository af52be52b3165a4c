// Package proc reads what a process uses from proc(5).
package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Anonymous is RssAnon (proc_pid_status(5)) in MiB, 0 for a process that has ended.
func Anonymous(pid int) float64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			if kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}

// CPU is the processor time that a process has used (proc_pid_stat(5), fields 14 and
// 15, in ticks of 10 ms), 0 for one that has ended.
func CPU(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
