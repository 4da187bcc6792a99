package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// pids lists the nodes and their executors; none for a node in this process.
func (s *server) pids() []int {
	var pids []int
	roots := map[string]bool{}
	for _, p := range s.processes {
		pids = append(pids, p.cmd.Process.Pid)
		roots[strconv.Itoa(p.cmd.Process.Pid)] = true
	}
	if pids == nil {
		return nil
	}
	folders, _ := os.ReadDir("/proc")
	for _, f := range folders {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		if fields := statFields(pid); len(fields) > 1 && roots[fields[1]] {
			pids = append(pids, pid)
		}
	}
	return pids
}

// statFields are the fields of /proc/PID/stat from the state on.
func statFields(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	return strings.Fields(after)
}

// cpu is the processor time that the nodes and their executors have used.
func (s *server) cpu() time.Duration {
	var ticks int
	for _, pid := range s.pids() {
		if f := statFields(pid); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			ticks += user + system
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory returns a line of the first node's /proc/PID/status in MiB: VmRSS or VmHWM.
func (s *server) memory(line string) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.processes[0].cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
