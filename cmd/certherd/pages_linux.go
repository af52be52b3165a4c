package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// forgetPages gives back the pages of the program file that are in memory: some
// 40 MiB, most of which only the program's start has needed. The kernel maps
// again what is wanted, from its cache. What has been written to, as a loader
// does that relocates, is left alone. It is for the short while in which an
// audit of a large cluster needs its memory for other things, and does nothing
// where /proc is not to be read.
func forgetPages() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps") // proc_pid_smaps(5)
	if err != nil {
		return
	}
	defer f.Close()
	var begin, end uint64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 6 && words[5] == self && strings.HasPrefix(words[1], "r-"):
			from, to, _ := strings.Cut(words[0], "-")
			begin, _ = strconv.ParseUint(from, 16, 64)
			end, _ = strconv.ParseUint(to, 16, 64)
		case len(words) > 1 && !strings.HasSuffix(words[0], ":"): // another mapping
			begin, end = 0, 0
		case len(words) == 3 && words[0] == "Anonymous:" && words[1] == "0" && begin < end:
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, uintptr(begin), uintptr(end-begin), syscall.MADV_DONTNEED)
		}
	}
}
