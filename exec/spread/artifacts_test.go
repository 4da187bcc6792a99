package spread_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pheromone-run/pheromone/exec/artifact"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/spec"
)

// folders is nodes with artifact stores that ask each other directly.
type folders struct {
	nodes map[string]*spread.Artifacts
	asked atomic.Int64
	spoil string // what this node sends is changed on the way
}

func newFolders(t *testing.T, names ...string) *folders {
	f := &folders{nodes: map[string]*spread.Artifacts{}}
	for _, name := range names {
		store, err := artifact.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		f.nodes[name] = &spread.Artifacts{Store: store, MaxBytes: 1 << 20, Nodes: func() []string {
			var others []string
			for _, other := range names {
				if other != name {
					others = append(others, other)
				}
			}
			return others
		}, Call: f.call}
	}
	return f
}

func (f *folders) call(ctx context.Context, node, method string, args any, _ io.Reader, _ any) (io.ReadCloser, error) {
	f.asked.Add(1)
	_, body, err := f.nodes[node].Handlers()[method](ctx, func(into any) error { return remarshal(args, into) }, nil)
	if err == nil && node == f.spoil {
		data, err := io.ReadAll(body)
		data[len(data)/2] ^= 1
		return io.NopCloser(bytes.NewReader(data)), err
	}
	return body, err
}

// packed makes an artifact with one file.
func packed(t *testing.T, name, text string) (sum string, archive []byte) {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(out.Bytes())
	return hex.EncodeToString(hash[:]), out.Bytes()
}

func TestAFolderThatANodeLacksComesFromOneThatHasIt(t *testing.T) {
	f := newFolders(t, "n1", "n2", "n3")
	sum, archive := packed(t, "app.py", "print()")
	if _, err := f.nodes["n3"].Store.Put(t.Context(), sum, bytes.NewReader(archive), 1<<20); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			dir, err := f.nodes["n1"].Dir(t.Context(), sum)
			if err != nil {
				t.Error(err)
				return
			}
			if text, err := os.ReadFile(filepath.Join(dir, "app.py")); err != nil || string(text) != "print()" {
				t.Errorf("the file has %q, %v", text, err)
			}
		})
	}
	all.Wait()
	if !f.nodes["n1"].Store.Has(sum) {
		t.Fatal("it was not kept")
	}
	asked := f.asked.Load()
	if _, err := f.nodes["n1"].Dir(t.Context(), sum); err != nil || f.asked.Load() != asked {
		t.Fatalf("asked again: %v", err)
	}
}

func TestAFolderThatWasChangedOnItsWayIsNotTaken(t *testing.T) {
	f := newFolders(t, "n1", "n2", "n3")
	sum, archive := packed(t, "app.py", strings.Repeat("print()\n", 100))
	for _, node := range []string{"n2", "n3"} {
		if _, err := f.nodes[node].Store.Put(t.Context(), sum, bytes.NewReader(archive), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	f.spoil = "n2"
	if err := f.nodes["n1"].Ensure(t.Context(), sum); err != nil { // n3 has it whole
		t.Fatal(err)
	}
	other, archive := packed(t, "app.py", "other")
	if _, err := f.nodes["n2"].Store.Put(t.Context(), other, bytes.NewReader(archive), 1<<20); err != nil {
		t.Fatal(err)
	}
	err := f.nodes["n1"].Ensure(t.Context(), other)
	if err == nil || !strings.Contains(err.Error(), "changed on the way") || f.nodes["n1"].Store.Has(other) {
		t.Fatalf("error %v", err)
	}
}

func TestAFolderThatNobodyHasOrThatIsTooLargeIsRefused(t *testing.T) {
	f := newFolders(t, "n1", "n2")
	sum, archive := packed(t, "app.py", "print()")
	if err := f.nodes["n1"].Ensure(t.Context(), sum); spec.CodeOf(err) != spec.CodeNotFound {
		t.Fatalf("error %v", err)
	}
	if _, err := f.nodes["n2"].Store.Put(t.Context(), sum, bytes.NewReader(archive), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.nodes["n1"].MaxBytes = 10
	if err := f.nodes["n1"].Ensure(t.Context(), sum); err == nil || !strings.Contains(err.Error(), "more than 10 bytes") {
		t.Fatalf("error %v", err)
	}
}
