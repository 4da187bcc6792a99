package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
)

// hangingDisk puts a pipe in the place of the file that is written to see whether
// the disk answers: opening it waits until answer is called.
func hangingDisk(t *testing.T, dir string) (answer func()) {
	t.Helper()
	path := filepath.Join(dir, "disk-watch")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	answered := false
	answer = func() {
		if answered {
			return
		}
		answered = true
		reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = reader.Close() })
	}
	t.Cleanup(answer)
	return answer
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestANodeAloneIsNotReadyWhileItsDiskHangs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	answer := hangingDisk(t, dir)
	n, err := node.Start(t.Context(), node.Config{DataDir: dir, Listen: "127.0.0.1:0", DiskTimeout: time.Second,
		Fatal: func(err error) { t.Errorf("it ends: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, "the node is not ready", func() bool { return n.Ready() != nil })
	if err := n.Ready(); spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "has not answered for 1s") {
		t.Errorf("not ready because: %v", err)
	}
	answer()
	waitFor(t, "the node is ready again", func() bool { return n.Ready() == nil })
}

func TestANodeOfAClusterEndsWhenItsDiskHangs(t *testing.T) {
	m := members(t, 1)[0]
	ended := make(chan error, 1)
	m.cfg.DiskTimeout = time.Second
	m.cfg.Fatal = func(err error) { ended <- err }
	hangingDisk(t, m.cfg.DataDir)
	m.start()
	select {
	case err := <-ended:
		if !strings.Contains(err.Error(), "the disk under "+m.cfg.DataDir+" has not answered for 1s") {
			t.Errorf("it ends because: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

func TestADiskTimeoutThatASlowDiskWouldMeetIsRefused(t *testing.T) {
	for timeout, valid := range map[time.Duration]bool{time.Millisecond: false, time.Second: true, 0: true, -1: true} {
		if err := (node.Config{DataDir: "data", DiskTimeout: timeout}).Validate(); (err == nil) != valid {
			t.Errorf("%v: %v", timeout, err)
		}
	}
}
