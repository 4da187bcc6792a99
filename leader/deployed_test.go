package leader_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// deployed is the control state.
type deployed struct {
	mu       sync.Mutex
	versions []*spec.App
	deleted  bool
	also     spec.AppName // another app, with the same versions

	incarnation uint64
	// behind has this copy know nothing before somebody waits for more.
	behind bool
	// unreadable is a version that this program can't read; 0 for none.
	unreadable uint64
}

func (d *deployed) hide(version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unreadable = version
}

func (d *deployed) apply(t testing.TB, manifest string) {
	t.Helper()
	app, _, err := spec.Parse("app.yaml", []byte(manifest), spec.FormatYAML)
	if err != nil {
		t.Fatalf("manifest: %v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.versions = append(d.versions, app)
	if d.deleted {
		d.incarnation++
	}
	d.deleted = false
}

// delete deletes the app; its versions stay for sessions that run on them.
func (d *deployed) delete() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deleted = true
}

func (d *deployed) App(name spec.AppName, version uint64) (*spec.App, uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if version == 0 && !d.deleted && !d.behind {
		version = uint64(len(d.versions))
	}
	if name != "demo" && name != d.also || version == 0 || version > uint64(len(d.versions)) || version == d.unreadable {
		return nil, 0, false
	}
	return d.versions[version-1], version, true
}

func (d *deployed) Incarnation(spec.AppName) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.incarnation
}

// Index counts the versions and deletions.
func (d *deployed) Index() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.behind {
		return 0
	}
	n := uint64(len(d.versions)) + 2*d.incarnation
	if d.deleted {
		n++
	}
	return n
}

func (d *deployed) Await(ctx context.Context, index uint64) error {
	d.mu.Lock()
	d.behind = false
	d.mu.Unlock()
	for d.Index() < index {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (d *deployed) Names() []spec.AppName {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.versions) == 0 || d.deleted || d.behind {
		return nil
	}
	if d.also != "" {
		return []spec.AppName{"demo", d.also}
	}
	return []spec.AppName{"demo"}
}
