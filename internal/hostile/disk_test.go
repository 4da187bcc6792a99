package hostile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// TestAFullDiskRefusesWritesUntilThereIsRoom: below the reserve puts are refused
// with a reason and reads go on; with room again so do writes, by themselves.
func TestAFullDiskRefusesWritesUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	free := int64(disk.Bavail) * disk.Bsize
	// Others write to this disk too: what is filled and what is left over are far
	// more than they will, and more than the reserve of nodes of other tests.
	left := min(max(free/4, 2<<30), free/2)
	reserve := (free + left) / 2
	t.Logf("%d MiB are free, %d MiB are reserved, %d MiB are left", free>>20, reserve>>20, left>>20)
	if free < 1<<30 {
		t.Fatal("that is too little for this test and those beside it")
	}
	node := nodetest.Start(t, "--disk-reserve", strconv.FormatInt(reserve, 10)+"B")
	node.CLI(0, "apply", "-f", "testdata/healthy/app.yaml")
	node.CLI(0, "put", "healthy", "doubled/before", "1")
	node.CLI(0, "invoke", "healthy", "double", "2")

	filler := filepath.Join(dir, "filler")
	fill(t, filler, free-left)
	objects := "/v1/apps/healthy/buckets/doubled/objects"
	write := func() answer { return call(t, node, http.MethodPut, objects+"/during", strings.NewReader("3")) }
	nodetest.Eventually(t, "writes are refused", func() bool { return write().status == http.StatusServiceUnavailable })
	a := write()
	a.wants(t, 503, spec.CodeUnavailable, "disk is full", "free space")
	if a.header.Get("Retry-After") == "" {
		t.Error("the answer does not say when to try again")
	}
	call(t, node, http.MethodPost, "/v1/apps/healthy/functions/double/invoke?wait=1s", strings.NewReader("4")).wants(t, 503, spec.CodeUnavailable, "disk is full")
	call(t, node, http.MethodGet, "/readyz", nil).wants(t, 503, spec.CodeUnavailable, "disk is full")
	if a := call(t, node, http.MethodGet, objects+"/before", nil); string(a.body) != "1" {
		t.Errorf("a read: %d %s", a.status, a.body)
	}
	node.CLI(0, "ls", "healthy", "doubled")
	node.CLI(0, "session", "ls", "healthy")
	if gauge(t, node, "pheromone_store_writable") != 0 {
		t.Error("the metrics say that there is room")
	}
	node.CLI(6, "put", "healthy", "doubled/during", "3", "--timeout", "1s")
	if a := call(t, node, http.MethodDelete, objects+"/before", nil); a.status != http.StatusOK {
		t.Errorf("a deletion, which frees space: %d %s", a.status, a.body)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, "writes are taken again", func() bool { return write().status == http.StatusOK })
	node.CLI(0, "invoke", "healthy", "double", "5")
}

// fill takes n bytes of the disk without writing them.
func fill(t *testing.T, path string, n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, n); err != nil {
		t.Fatalf("fill the disk: %v", err)
	}
}

// TestAFolderThatIsNotTheNodesIsRefusedAndLeftAlone: a node that is started on
// the wrong folder says which and how to go on, and changes nothing in it.
func TestAFolderThatIsNotTheNodesIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	runOnce(t, data)
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		args   []string
		says   []string
	}{
		{"somebody's folder", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "letters", "to-mother.txt"), "dear mother")
		}, nil, []string{"letters", "empty folder"}},
		{"a store folder that is somebody's", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "store", "stock.csv"), "apples,3")
		}, nil, []string{"stock.csv", "empty folder"}},
		{"an identity with a flipped byte", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "store", "pheromone.json"), 0) }, nil, []string{"damaged", "pheromone.json", "backup"}},
		{"an identity of another format", func(t *testing.T, dir string) { flipAt(t, filepath.Join(dir, "store", "pheromone.json"), `"format": `) }, nil, []string{"format", "version of pheromone"}},
		{"an identity of another node", func(t *testing.T, dir string) { flipAt(t, filepath.Join(dir, "store", "pheromone.json"), `"node": "`) }, nil, []string{"belongs to node", "n1"}},
		{"a manifest of the store with a flipped byte", func(t *testing.T, dir string) { flipMatch(t, filepath.Join(dir, "store", "pebble", "MANIFEST-*")) }, nil, []string{"damaged", "MANIFEST", "backup"}},
		{"another node's name", func(*testing.T, string) {}, []string{"--name", "n2"}, []string{`belongs to node "n1"`, `"n2"`, "its own name"}},
		{"a file as the folder", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			write(t, dir, "I am a file")
		}, nil, []string{"not a directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(data)); err != nil {
				t.Fatal(err)
			}
			c.change(t, dir)
			before := fingerprint(t, dir)
			refused(t, append([]string{"--data", dir, "--listen", "127.0.0.1:0"}, c.args...), append(c.says, dir)...)
			if after := fingerprint(t, dir); after != before {
				t.Errorf("the folder was changed:\n%s\nwas\n%s", after, before)
			}
		})
	}
}

// TestTwoNodesDoNotShareAFolderNorAPort: the second one says what the first has.
func TestTwoNodesDoNotShareAFolderNorAPort(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	address, stop := start(t, data)
	refused(t, []string{"--data", data, "--listen", "127.0.0.1:0"}, data, "another process", "a folder of its own")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"--data", filepath.Join(t.TempDir(), "other"), "--listen", address}, port, "in use")
	resp, err := http.Get("http://" + address + "/readyz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the first node: %v %v", resp, err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
	stop()
}

// start starts a node and returns its address and what stops it.
func start(t *testing.T, data string) (address string, stop func()) {
	t.Helper()
	address = nodetest.FreeAddress(t)
	var log bytes.Buffer
	cmd := exec.Command(nodetest.Binary(t), "serve", "--data", data, "--listen", address)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the node ended with %v:\n%s", err, &log)
		}
	}
	t.Cleanup(stop)
	nodetest.Eventually(t, "the node is ready", func() bool {
		resp, err := http.Get("http://" + address + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return address, stop
}

// runOnce makes a data folder.
func runOnce(t *testing.T, data string) {
	t.Helper()
	_, stop := start(t, data)
	stop()
}

// refused runs a node that must not start, and say all of these.
func refused(t *testing.T, args []string, says ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, nodetest.Binary(t), append([]string{"serve", "--log-level", "error"}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		t.Fatalf("the node was not refused: %v\n%s", err, out)
	}
	for _, s := range says {
		if !strings.Contains(string(out), s) {
			t.Errorf("it does not say %q:\n%s", s, out)
		}
	}
	if strings.Contains(string(out), "goroutine ") {
		t.Errorf("it panicked:\n%s", out)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte of a file to another letter.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x08
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func flipAt(t *testing.T, path, after string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte(after))
	if i < 0 {
		t.Fatalf("%s has no %s:\n%s", path, after, b)
	}
	flip(t, path, i+len(after))
}

func flipMatch(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s (%v)", pattern, err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	flip(t, files[0], int(info.Size()/2))
}

// fingerprint names every file under dir with the hash of its content.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "LOCK" {
			return err
		}
		fmt.Fprintf(&all, "%s %v\n", path, d.Type())
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			fmt.Fprintf(&all, "  %x\n", sha256.Sum256(b))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
