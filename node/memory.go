package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The defaults of InputBytes and SharedBytes are within these.
const (
	mostInputBytes   = 2 << 30
	leastSharedBytes = 8 << 20
	mostSharedBytes  = 256 << 20
)

// defaultInputBytes is the budget of inputs on a machine with so much memory; 0 is
// not known.
func defaultInputBytes(memory int64) int64 {
	if memory <= 0 {
		return mostInputBytes
	}
	return min(max(memory/4, leastInputBytes), mostInputBytes)
}

// defaultSharedBytes is the bound of shared memory on a machine with so much memory; 0
// is one that does not say.
func defaultSharedBytes(memory int64) int64 {
	if memory <= 0 {
		return mostSharedBytes
	}
	return min(max(memory/8, leastSharedBytes), mostSharedBytes)
}

// memoryBytes is how much memory the node may use, 0 if that is not known: that of
// the machine, or what a container is allowed. root is where /proc and /sys are.
func memoryBytes(root string) int64 {
	var memory int64
	for line := range strings.Lines(read(root, "proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			memory = kib << 10
		}
	}
	// Inside a container its own control group is the root of what it sees.
	for _, limit := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if n, err := strconv.ParseInt(strings.TrimSpace(read(root, limit)), 10, 64); err == nil && n > 0 && (memory == 0 || n < memory) {
			memory = n
		}
	}
	return memory
}

func read(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	return string(data)
}
