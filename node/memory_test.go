package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheBudgetOfInputsFollowsTheMemoryThatIsThere(t *testing.T) {
	const meminfo = "proc/meminfo"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing is known", nil, 2 << 30},
		{"a large machine", map[string]string{meminfo: "MemTotal:       65536000 kB\nMemFree: 1 kB\n"}, 2 << 30},
		{"a small machine", map[string]string{meminfo: "MemTotal:        1048576 kB\n"}, 256 << 20},
		{"a container on a large machine", map[string]string{meminfo: "MemTotal:       65536000 kB\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 128 << 20},
		{"a container without a limit", map[string]string{meminfo: "MemTotal:        1048576 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 256 << 20},
		{"a tiny container", map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "33554432\n"}, leastInputBytes},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := defaultInputBytes(memoryBytes(root)); got != c.want {
			t.Errorf("%s: a budget of %d bytes, want %d", c.name, got, c.want)
		}
	}
}

func TestABudgetOfInputsThatIsTooSmallIsRefused(t *testing.T) {
	err := Config{DataDir: "data", InputBytes: 1 << 20}.Validate()
	if err == nil || !strings.Contains(err.Error(), "input-memory") || !strings.Contains(err.Error(), "16MiB") {
		t.Errorf("validated with %v", err)
	}
}
