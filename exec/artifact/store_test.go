package artifact_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pheromone-run/pheromone/exec/artifact"
	"github.com/pheromone-run/pheromone/spec"
)

func archive(t *testing.T, entries ...*tar.Header) (sum string, data []byte) {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range entries {
		body := h.PAXRecords["PHEROMONE.body"]
		h.PAXRecords = nil
		if h.Size == 0 {
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if body == "" && h.Size > 0 {
			_, err = io.CopyN(w, zeros{}, h.Size)
		} else {
			_, err = io.WriteString(w, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return hash(out.Bytes()), out.Bytes()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func file(name, body string, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, PAXRecords: map[string]string{"PHEROMONE.body": body}}
}

func link(name, target string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}

func open(t *testing.T) (*artifact.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := artifact.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func put(t *testing.T, s *artifact.Store, sum string, data []byte) {
	t.Helper()
	if _, err := s.Put(context.Background(), sum, bytes.NewReader(data), 1<<30); err != nil {
		t.Fatal(err)
	}
}

func TestAnArtifactIsStoredOnceAndExtractedWithItsModes(t *testing.T) {
	s, _ := open(t)
	ctx := context.Background()
	sum, data := archive(t, file("./app.py", "print()", 0o640), file("bin/run", "#!/bin/sh", 0o755), link("bin/other", "../app.py"),
		&tar.Header{Name: "empty/", Typeflag: tar.TypeDir})
	existed, err := s.Put(ctx, sum, bytes.NewReader(data), int64(len(data)))
	if err != nil || existed || !s.Has(sum) {
		t.Fatalf("put: %v, %v", existed, err)
	}
	if existed, err = s.Put(ctx, sum, bytes.NewReader(data), int64(len(data))); err != nil || !existed {
		t.Fatalf("second put: %v, %v", existed, err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			dir, err := s.Dir(ctx, sum)
			if err != nil {
				t.Error(err)
				return
			}
			body, err := os.ReadFile(filepath.Join(dir, "bin/other"))
			if err != nil || string(body) != "print()" {
				t.Errorf("read %q, %v", body, err)
			}
			info, err := os.Stat(filepath.Join(dir, "bin/run"))
			if err != nil || info.Mode().Perm()&0o111 == 0 {
				t.Errorf("mode %v, %v", info, err)
			}
		})
	}
	group.Wait()
	again, err := s.Open(sum)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := io.ReadAll(again); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read back %d bytes, %v", len(got), err)
	}
}

func TestNoArtifactIsAnEmptyFolder(t *testing.T) {
	s, _ := open(t)
	dir, err := s.Dir(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Fatalf("%v, %v", entries, err)
	}
}

func TestABadUploadLeavesNothing(t *testing.T) {
	sum, data := archive(t, file("a", "b", 0o644))
	for _, c := range []struct {
		name, sum string
		body      io.Reader
		max       int64
		code      spec.Code
	}{
		{"another hash", strings.Repeat("0", 64), bytes.NewReader(data), 1 << 20, spec.CodeHashMismatch},
		{"too large", sum, bytes.NewReader(data), int64(len(data)) - 1, spec.CodeTooLarge},
		{"a name that is no hash", "../../etc/passwd", bytes.NewReader(data), 1 << 20, spec.CodeInvalid},
		{"a broken stream", sum, io.MultiReader(bytes.NewReader(data[:10]), broken{}), 1 << 20, spec.CodeInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, dir := open(t)
			if _, err := s.Put(context.Background(), c.sum, c.body, c.max); spec.CodeOf(err) != c.code {
				t.Fatalf("error %v", err)
			}
			for _, left := range []string{"archives", "making"} {
				if entries, err := os.ReadDir(filepath.Join(dir, left)); err != nil || len(entries) != 0 {
					t.Fatalf("%s holds %v, %v", left, entries, err)
				}
			}
			if s.Has(c.sum) {
				t.Fatal("it is stored")
			}
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection lost") }

func TestADangerousArchiveIsRefusedAndNothingOfItStays(t *testing.T) {
	var many []*tar.Header
	for i := range 20_001 {
		many = append(many, &tar.Header{Name: "d/" + strings.Repeat("x", i%50) + string(rune('a'+i%26)), Typeflag: tar.TypeDir})
	}
	for _, c := range []struct {
		name    string
		entries []*tar.Header
		says    string
	}{
		{"an absolute path", []*tar.Header{file("/etc/x", "", 0o644)}, "outside of the folder"},
		{"a path upwards", []*tar.Header{file("a/../../x", "", 0o644)}, "outside of the folder"},
		{"a link upwards", []*tar.Header{link("a", "../x")}, "outside of the folder"},
		{"an absolute link", []*tar.Header{link("a", "/etc")}, "outside of the folder"},
		{"a link that leaves by way of another", []*tar.Header{{Name: "a", Typeflag: tar.TypeDir}, link("a/s", ".."), link("a/s/y", "../../making")}, "leaves the folder"},
		{"a file behind a link that leaves", []*tar.Header{{Name: "a", Typeflag: tar.TypeDir}, link("a/s", ".."), link("a/s/y", "../.."), file("y/x", "evil", 0o644)}, ""},
		{"a hard link upwards", []*tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../archives"}}, "outside of the folder"},
		{"a device", []*tar.Header{{Name: "a", Typeflag: tar.TypeChar}}, "neither a file"},
		{"a pipe", []*tar.Header{{Name: "a", Typeflag: tar.TypeFifo}}, "neither a file"},
		{"the same file twice", []*tar.Header{file("a", "1", 0o644), file("a", "2", 0o644)}, "exists"},
		{"too many entries", many, "more than 20000 entries"},
		{"a bomb", []*tar.Header{{Name: "zeros", Typeflag: tar.TypeReg, Size: 64 << 20}}, "expands more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, dir := open(t)
			sum, data := archive(t, c.entries...)
			put(t, s, sum, data)
			_, err := s.Dir(context.Background(), sum)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want one that says %q", err, c.says)
			}
			for _, left := range []string{"folders", "making"} {
				if entries, err := os.ReadDir(filepath.Join(dir, left)); err != nil || len(entries) != 0 {
					t.Fatalf("%s holds %v, %v", left, entries, err)
				}
			}
		})
	}
	t.Run("no archive at all", func(t *testing.T) {
		s, _ := open(t)
		put(t, s, hash([]byte("text")), []byte("text"))
		if _, err := s.Dir(context.Background(), hash([]byte("text"))); spec.CodeOf(err) != spec.CodeInvalid {
			t.Fatalf("error %v", err)
		}
		if _, err := s.Dir(context.Background(), hash(nil)); spec.CodeOf(err) != spec.CodeNotFound {
			t.Fatalf("error %v", err)
		}
	})
}

func TestRemoveKeepsWhatIsNamed(t *testing.T) {
	s, _ := open(t)
	one, data := archive(t, file("a", "1", 0o644))
	put(t, s, one, data)
	two, data := archive(t, file("a", "2", 0o644))
	put(t, s, two, data)
	for _, sum := range []string{one, two} {
		if _, err := s.Dir(context.Background(), sum); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(map[string]bool{two: true}); err != nil {
		t.Fatal(err)
	}
	if s.Has(one) || !s.Has(two) {
		t.Fatalf("one %v, two %v", s.Has(one), s.Has(two))
	}
	if _, err := s.Dir(context.Background(), one); spec.CodeOf(err) != spec.CodeNotFound {
		t.Fatalf("error %v", err)
	}
}
