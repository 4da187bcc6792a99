package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pheromone-run/pheromone/spec"
)

// Store is the artifacts of a node, under one folder that belongs to it alone.
type Store struct {
	dir   string
	fetch Fetch
	mu    struct {
		sync.Mutex
		extracting map[string]*extraction
	}
}

// Fetch gets an archive that is not stored from elsewhere. What it gives is checked
// against sum.
type Fetch func(ctx context.Context, sum string) (io.ReadCloser, error)

// MaxBytes bounds an archive.
const MaxBytes = 256 << 20

// extraction is under way; done is closed when err is known.
type extraction struct {
	done chan struct{}
	err  error
}

// Names in the store's folder: archives and folders by their sum, and what is
// being made.
const (
	archives = "archives"
	folders  = "folders"
	making   = "making"
	empty    = "empty"
)

// Open opens the store under dir, which is made if it is not there. What an
// earlier run left half-made is removed. What is asked for and not stored is
// fetched, unless fetch is nil.
func Open(dir string, fetch Fetch) (*Store, error) {
	s := &Store{dir: dir, fetch: fetch}
	s.mu.extracting = make(map[string]*extraction)
	if err := os.RemoveAll(filepath.Join(dir, making)); err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	// Extracted folders are not synced: after a power cut they may be there with
	// empty files. The archives are, so the folders are made again when asked for.
	if err := os.RemoveAll(filepath.Join(dir, folders)); err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	for _, name := range []string{archives, folders, making, empty} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("open artifact store: %w", err)
		}
	}
	return s, nil
}

// Put stores the archive that r gives, if its SHA-256 is sum and it has at most
// max bytes; it tells whether it was there before. Otherwise nothing is kept.
func (s *Store) Put(ctx context.Context, sum string, r io.Reader, max int64) (existed bool, err error) {
	if err := checkSum(sum); err != nil {
		return false, err
	}
	if s.Has(sum) {
		return true, nil
	}
	file, err := os.CreateTemp(filepath.Join(s.dir, making), "archive-*")
	if err != nil {
		return false, fmt.Errorf("store artifact %s: %w", sum, err)
	}
	defer os.Remove(file.Name()) // fails once it is renamed
	defer file.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, hash), io.LimitReader(&reader{ctx, r}, max+1))
	if err != nil {
		return false, fmt.Errorf("store artifact %s: %w", sum, err)
	}
	if n > max {
		return false, spec.Errorf(spec.CodeTooLarge, "the artifact has more than %d bytes, which is the most that is allowed", max)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return false, spec.Errorf(spec.CodeHashMismatch, "the artifact's SHA-256 is %s, not %s as its name says: it was changed on the way, or named wrongly", got, sum)
	}
	if err := file.Sync(); err != nil {
		return false, fmt.Errorf("store artifact %s: %w", sum, err)
	}
	if err := os.Rename(file.Name(), s.archive(sum)); err != nil {
		return false, fmt.Errorf("store artifact %s: %w", sum, err)
	}
	return false, syncDir(filepath.Join(s.dir, archives))
}

// reader ends with ctx.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

func checkSum(sum string) error {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size || strings.ToLower(sum) != sum {
		return spec.Errorf(spec.CodeInvalid, "%.80q is not a SHA-256: it has 64 lower-case hexadecimal digits", sum)
	}
	return nil
}

// Has tells whether the archive is stored.
func (s *Store) Has(sum string) bool {
	if checkSum(sum) != nil {
		return false
	}
	info, err := os.Stat(s.archive(sum))
	return err == nil && info.Mode().IsRegular()
}

// Open opens the archive for reading, to send it to another node.
func (s *Store) Open(sum string) (io.ReadCloser, error) {
	if err := checkSum(sum); err != nil {
		return nil, err
	}
	file, err := os.Open(s.archive(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notStored(sum)
	}
	return file, err
}

func notStored(sum string) error {
	return spec.Errorf(spec.CodeNotFound, "artifact %s is not stored on this node", sum)
}

// Get makes sure that the archive is stored: what is not is fetched.
func (s *Store) Get(ctx context.Context, sum string) error {
	if s.Has(sum) || s.fetch == nil {
		return nil // who opens it says that it is not there
	}
	r, err := s.fetch(ctx, sum)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if _, err := s.Put(ctx, sum, r, MaxBytes); err != nil {
		return fmt.Errorf("fetch artifact %s: %w", sum, err)
	}
	return nil
}

// Dir returns the folder with the artifact's files; it is extracted by the first
// who asks. An empty sum is an empty folder.
func (s *Store) Dir(ctx context.Context, sum string) (string, error) {
	if sum == "" {
		return filepath.Join(s.dir, empty), nil
	}
	if err := checkSum(sum); err != nil {
		return "", err
	}
	dir := filepath.Join(s.dir, folders, sum)
	s.mu.Lock()
	if _, err := os.Stat(dir); err == nil {
		s.mu.Unlock()
		return dir, nil
	}
	e := s.mu.extracting[sum]
	if e == nil {
		e = &extraction{done: make(chan struct{})}
		s.mu.extracting[sum] = e
		s.mu.Unlock()
		if e.err = s.Get(ctx, sum); e.err == nil {
			e.err = s.extract(ctx, sum, dir)
		}
		s.mu.Lock()
		delete(s.mu.extracting, sum)
		close(e.done)
	}
	s.mu.Unlock()
	select {
	case <-e.done:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if e.err != nil {
		return "", e.err
	}
	return dir, nil
}

// extract makes dir of the archive.
func (s *Store) extract(ctx context.Context, sum, dir string) error {
	file, err := os.Open(s.archive(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return notStored(sum)
	}
	if err != nil {
		return fmt.Errorf("extract artifact %s: %w", sum, err)
	}
	defer file.Close()
	temporary, err := os.MkdirTemp(filepath.Join(s.dir, making), "folder-*")
	if err != nil {
		return fmt.Errorf("extract artifact %s: %w", sum, err)
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil {
		return fmt.Errorf("extract artifact %s: %w", sum, err)
	}
	if err := extractTo(temporary, &reader{ctx, file}); err != nil {
		return err
	}
	if err := os.Rename(temporary, dir); err != nil {
		return fmt.Errorf("extract artifact %s: %w", sum, err)
	}
	return nil
}

// Remove removes every artifact that is not in keep.
func (s *Store) Remove(keep map[string]bool) error {
	var errs []error
	for _, kind := range []string{folders, archives} {
		entries, err := os.ReadDir(filepath.Join(s.dir, kind))
		errs = append(errs, err)
		for _, entry := range entries {
			if sum := strings.TrimSuffix(entry.Name(), suffix); !keep[sum] {
				errs = append(errs, s.removeOne(kind, entry.Name()))
			}
		}
	}
	return errors.Join(errs...)
}

// removeOne renames before it removes, so that no half-removed folder has a name.
func (s *Store) removeOne(kind, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	temporary, err := os.MkdirTemp(filepath.Join(s.dir, making), "removed-*")
	if err != nil {
		return fmt.Errorf("remove artifact: %w", err)
	}
	if err := os.Rename(filepath.Join(s.dir, kind, name), filepath.Join(temporary, name)); err != nil {
		return fmt.Errorf("remove artifact: %w", err)
	}
	return os.RemoveAll(temporary)
}

const suffix = ".tar.zst"

func (s *Store) archive(sum string) string { return filepath.Join(s.dir, archives, sum+suffix) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
