package artifact

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pheromone-run/pheromone/spec"
)

// Bounds of what an archive may hold.
const (
	maxEntries    = 20_000
	maxTotalBytes = 2 << 30
	maxNameBytes  = 1024
	maxDepth      = 64
	// maxRatio bounds how far an archive may expand, beyond freeBytes.
	maxRatio  = 200
	freeBytes = 16 << 20
	maxWindow = 128 << 20
)

// extractTo writes what archive holds into dir, which exists and is empty.
func extractTo(dir string, archive io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("extract artifact: %w", err)
	}
	defer root.Close()
	taken := &counter{r: archive}
	unpacked, err := zstd.NewReader(taken, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow*2))
	if err != nil {
		return fmt.Errorf("extract artifact: %w", err)
	}
	defer unpacked.Close()
	x := &extractor{root: root, in: tar.NewReader(&bounded{r: unpacked, from: taken})}
	for {
		header, err := x.in.Next()
		done := err == io.EOF
		if done {
			err = x.checkLinks()
		} else if err == nil {
			err = x.entry(header)
		}
		if err == nil && done {
			return nil
		}
		if err != nil {
			var known *spec.Error
			if errors.As(err, &known) {
				return known
			}
			return spec.Errorf(spec.CodeInvalid, "the artifact is not a tar compressed with zstd that can be extracted: %w", err)
		}
	}
}

// extractor writes entries. os.Root sees to it that links are not followed out
// of the folder.
type extractor struct {
	root    *os.Root
	in      *tar.Reader
	entries int
	links   []string
}

func (x *extractor) entry(h *tar.Header) error {
	if x.entries++; x.entries > maxEntries {
		return spec.Errorf(spec.CodeTooLarge, "the artifact has more than %d entries", maxEntries)
	}
	name, err := localName(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	if parent := path.Dir(name); parent != "." {
		if err := x.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return x.root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		return x.file(name, h)
	case tar.TypeSymlink:
		if _, err := localName(path.Join(path.Dir(name), h.Linkname)); err != nil || path.IsAbs(h.Linkname) {
			return spec.Errorf(spec.CodeInvalid, "the artifact's entry %.200q is a link to %.200q, outside of the folder", h.Name, h.Linkname)
		}
		x.links = append(x.links, name)
		return x.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target, err := localName(h.Linkname)
		if err != nil {
			return err
		}
		return x.root.Link(target, name)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return spec.Errorf(spec.CodeInvalid, "the artifact's entry %.200q is neither a file, a folder nor a link", h.Name)
	}
}

// checkLinks follows the links once all is there: one that looks harmless may
// leave the folder by way of another.
func (x *extractor) checkLinks() error {
	for _, name := range x.links {
		if _, err := x.root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return spec.Errorf(spec.CodeInvalid, "the artifact's entry %.200q is a link that leaves the folder: %w", name, err)
		}
	}
	return nil
}

func (x *extractor) file(name string, h *tar.Header) error {
	mode := os.FileMode(0o644)
	if h.Mode&0o111 != 0 {
		mode = 0o755
	}
	file, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, x.in)
	return errors.Join(err, file.Close())
}

// localName checks that name stays within the folder and returns it clean.
func localName(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case len(name) > maxNameBytes || strings.Count(clean, "/") > maxDepth:
		return "", spec.Errorf(spec.CodeInvalid, "the artifact has an entry with a name of more than %d bytes or %d levels", maxNameBytes, maxDepth)
	case name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, 0):
		return "", spec.Errorf(spec.CodeInvalid, "the artifact's entry %.200q is outside of the folder", name)
	}
	return clean, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// bounded stops an archive that expands beyond the bounds.
type bounded struct {
	r    io.Reader
	from *counter
	n    int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.n > maxTotalBytes {
		return n, spec.Errorf(spec.CodeTooLarge, "the artifact has more than %d bytes when extracted", int64(maxTotalBytes))
	}
	if b.n > freeBytes && b.n/maxRatio > b.from.n {
		return n, spec.Errorf(spec.CodeTooLarge, "the artifact expands more than %d times", maxRatio)
	}
	return n, err
}
