package client_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

func write(t interface {
	Helper()
	Fatal(...any)
}, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// unpack lists an artifact's entries as "name mode text".
func unpack(t interface {
	Helper()
	Fatal(...any)
}, a *client.Artifact) []string {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(a.Data))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var entries []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Fatal("an entry tells who made it, or when: ", h)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, strings.TrimSpace(strings.Join([]string{h.Name, h.FileInfo().Mode().Perm().String(), h.Linkname + string(text)}, " ")))
	}
}

func TestAFolderIsPackedWithWhatBelongsToTheApp(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "app.py", "print()", 0o600)
	write(t, dir, "run.sh", "#!/bin/sh", 0o700)
	write(t, dir, "lib/deep/x.py", "x", 0o644)
	write(t, dir, "node_modules/m/index.js", "m", 0o644)
	write(t, dir, ".git/config", "secret", 0o644)
	write(t, dir, "lib/__pycache__/x.pyc", "junk", 0o644)
	write(t, dir, "notes.log", "junk", 0o644)
	write(t, dir, "lib/other.log", "junk", 0o644)
	write(t, dir, "build/out", "junk", 0o644)
	write(t, dir, "lib/build", "a file, not a folder", 0o644)
	write(t, dir, "docs/a/b/c.md", "junk", 0o644)
	write(t, dir, "data/state", "junk", 0o644)
	write(t, dir, client.IgnoreFile, "# junk\n*.log\n\nbuild/\n/docs/**/*.md\n", 0o644)
	if err := os.Symlink("deep/x.py", filepath.Join(dir, "lib/link.py")); err != nil {
		t.Fatal(err)
	}
	a, err := client.Pack(dir, client.PackOptions{Exclude: []string{"data"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"app.py -rw-r--r-- print()",
		"docs/ -rwxr-xr-x", "docs/a/ -rwxr-xr-x", "docs/a/b/ -rwxr-xr-x",
		"lib/ -rwxr-xr-x", "lib/build -rw-r--r-- a file, not a folder",
		"lib/deep/ -rwxr-xr-x", "lib/deep/x.py -rw-r--r-- x", "lib/link.py -rwxrwxrwx deep/x.py",
		"node_modules/ -rwxr-xr-x", "node_modules/m/ -rwxr-xr-x", "node_modules/m/index.js -rw-r--r-- m",
		"run.sh -rwxr-xr-x #!/bin/sh",
	}
	if got := unpack(t, a); !slices.Equal(got, want) {
		t.Errorf("packed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	skipped := []string{".git/", ".pheromoneignore", "build/", "data/", "docs/a/b/c.md", "lib/__pycache__/", "lib/other.log", "notes.log"}
	if !slices.Equal(a.Skipped, skipped) {
		t.Errorf("skipped %q, want %q", a.Skipped, skipped)
	}
	sum := sha256.Sum256(a.Data)
	if a.Sum != hex.EncodeToString(sum[:]) {
		t.Error("the sum is not the data's")
	}
}

func TestWhatCannotBePackedIsRefusedWithItsName(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string){
		"a socket": func(t *testing.T, dir string) {
			l, err := net.Listen("unix", filepath.Join(dir, "odd"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		},
		"a link out of the folder":                link("../elsewhere"),
		"a link to an absolute path":              link("/etc/passwd"),
		"a link to nothing":                       link("nothing"),
		"a link that leads out through another":   linkThrough,
		"an ignore file that takes files back in": ignoring("!odd"),
		"an ignore file with a bad pattern":       ignoring("odd["),
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "p") // short: a socket's name has 108 bytes at most
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			write(t, dir, "app.py", "x", 0o644)
			prepare(t, dir)
			_, err = client.Pack(dir, client.PackOptions{})
			if spec.CodeOf(err) != spec.CodeInvalid || !strings.Contains(err.Error(), "odd") {
				t.Errorf("Pack: %v", err)
			}
		})
	}
}

func link(target string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		if err := os.Symlink(target, filepath.Join(dir, "odd")); err != nil {
			t.Fatal(err)
		}
	}
}

func linkThrough(t *testing.T, dir string) {
	write(t, dir, "top/x", "x", 0o644)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.Symlink("../../top", filepath.Join(dir, "a/b/up")),
		os.Symlink("up/../../..", filepath.Join(dir, "a/b/odd"))); err != nil {
		t.Fatal(err)
	}
}

func ignoring(pattern string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) { write(t, dir, client.IgnoreFile, "*.log\n"+pattern+"\n", 0o644) }
}

func TestEqualFoldersArePackedToEqualBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := rapid.MapOfN(rapid.StringMatching(`[a-z]{1,8}(/[a-z]{9,12}){0,2}`), rapid.String(), 0, 12).Draw(t, "files")
		names := make([]string, 0, len(files))
		for name := range files {
			names = append(names, name)
		}
		slices.Sort(names)
		pack := func(order []string) *client.Artifact {
			dir, err := os.MkdirTemp("", "pack")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			for _, name := range order {
				write(t, dir, name, files[name], 0o640)
			}
			a, err := client.Pack(dir, client.PackOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		// What is the folder of another file can't be a file.
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(other, name+"/") })
		})
		first := pack(names)
		slices.Reverse(names)
		if second := pack(names); first.Sum != second.Sum {
			t.Fatal("two packs of the same files differ")
		}
		entries := unpack(t, first)
		for _, name := range names {
			if want := strings.TrimSpace(name + " -rw-r--r-- " + files[name]); !slices.Contains(entries, want) {
				t.Fatalf("%q did not come back: %q", want, entries)
			}
		}
	})
}
