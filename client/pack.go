package client

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/pheromone-run/pheromone/spec"
)

// Bounds of a folder that is packed.
const (
	MaxArtifactFiles = 20_000
	MaxArtifactBytes = 256 << 20 // of all files together
)

// Artifact is a packed folder: a tar of its files, compressed with zstd.
type Artifact struct {
	Sum     string // SHA-256 of Data, hex
	Data    []byte
	Files   int
	Bytes   int64    // of all files together
	Skipped []string // what was left out, sorted; folders with a slash at their end
}

// PackOptions says what to leave out besides what the folder's ignore file and
// alwaysSkipped name.
type PackOptions struct {
	Exclude []string // slash-separated paths relative to the folder
}

// alwaysSkipped are names that never belong to an app: what version control and
// Python's compiler keep beside the sources. Dependencies (node_modules, a
// virtual environment) do belong, since a function may need them to run.
var alwaysSkipped = []string{".git", ".hg", ".svn", "__pycache__", ".DS_Store", IgnoreFile}

// Pack packs the folder at dir. Equal contents give equal bytes, wherever and
// whenever they are packed: files are sorted, and of their attributes only the
// execute permission is kept. Symbolic links stay links and must lead to
// something inside the folder; sockets, pipes and devices are errors.
func Pack(dir string, o PackOptions) (*Artifact, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("pack the folder: %w", err)
	}
	defer root.Close()
	ignored, err := readIgnoreFile(root)
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	// One goroutine, so that equal input gives equal output.
	compressed, err := zstd.NewWriter(&data, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("pack the folder: %w", err)
	}
	p := &packer{dir: dir, root: root, ignored: ignored, exclude: o.Exclude, tar: tar.NewWriter(compressed)}
	if err := fs.WalkDir(root.FS(), ".", p.visit); err != nil {
		return nil, err
	}
	if err := errors.Join(p.tar.Close(), compressed.Close()); err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	sum := sha256.Sum256(data.Bytes())
	slices.Sort(p.skipped)
	return &Artifact{Sum: hex.EncodeToString(sum[:]), Data: data.Bytes(), Files: p.files, Bytes: p.bytes, Skipped: p.skipped}, nil
}

type packer struct {
	dir     string
	root    *os.Root
	ignored ignoreRules
	exclude []string
	tar     *tar.Writer

	files   int
	bytes   int64
	skipped []string
}

// visit packs one entry. WalkDir comes in lexical order and doesn't follow links.
func (p *packer) visit(name string, entry fs.DirEntry, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("pack %s: %w", p.dir, err)
	case name == ".":
		return nil
	}
	if slices.Contains(alwaysSkipped, entry.Name()) || slices.Contains(p.exclude, name) || p.ignored.match(name, entry.IsDir()) {
		if entry.IsDir() {
			p.skipped = append(p.skipped, name+"/")
			return fs.SkipDir
		}
		p.skipped = append(p.skipped, name)
		return nil
	}
	if p.files++; p.files > MaxArtifactFiles {
		return p.refuse(name, "the folder holds more than %d files", MaxArtifactFiles)
	}
	info, err := entry.Info()
	if err != nil {
		return fmt.Errorf("pack %s: %w", p.dir, err)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		return p.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
	case fs.ModeSymlink:
		return p.link(name)
	case 0:
		return p.file(name, info)
	}
	return p.refuse(name, "it is a %s; only files, folders and links can be packed", kindOf(info.Mode()))
}

func (p *packer) file(name string, info fs.FileInfo) error {
	if p.bytes += info.Size(); p.bytes > MaxArtifactBytes {
		return p.refuse(name, "the folder's files have more than %d MiB together", MaxArtifactBytes>>20)
	}
	mode := int64(0o644)
	if info.Mode().Perm()&0o111 != 0 {
		mode = 0o755
	}
	f, err := p.root.Open(name)
	if err != nil {
		return fmt.Errorf("pack %s: %w", p.dir, err)
	}
	defer f.Close()
	if err := p.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, info.Size()+1))
	if err != nil && !errors.Is(err, tar.ErrWriteTooLong) {
		return fmt.Errorf("pack %s: %w", filepath.Join(p.dir, name), err)
	}
	if err != nil || n != info.Size() {
		return p.refuse(name, "it changed while it was read; try again")
	}
	return nil
}

func (p *packer) link(name string) error {
	target, err := p.root.Readlink(name)
	if err != nil {
		return fmt.Errorf("pack %s: %w", p.dir, err)
	}
	if filepath.IsAbs(target) {
		return p.refuse(name, "it is a link to the absolute path %s; use a relative one inside the folder", target)
	}
	// Root follows links only inside the folder, through other links too. The path
	// as it is written must lead inside as well: that is what the server checks
	// before the other links are there.
	if _, err := p.root.Stat(name); err != nil || !filepath.IsLocal(filepath.Join(filepath.Dir(name), target)) {
		return p.refuse(name, "it is a link to %s, which is not inside the folder", target)
	}
	return p.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: filepath.ToSlash(target), Mode: 0o777})
}

func (p *packer) header(h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", filepath.Join(p.dir, h.Name), err)
	}
	return nil
}

func (p *packer) refuse(name, format string, args ...any) error {
	return spec.Errorf(spec.CodeInvalid, "pack %s: %s", filepath.Join(p.dir, name), fmt.Sprintf(format, args...)).
		WithHint("name what does not belong to the app in " + filepath.Join(p.dir, IgnoreFile))
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}
