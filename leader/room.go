package leader

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/pheromone-run/pheromone/spec"
)

// room bounds the payload bytes of commands between their arrival and their answer.
// One app may have half of it, so that the others find some.
type room struct {
	all *semaphore.Weighted // of intakeBytes

	mu struct {
		sync.Mutex
		apps map[spec.AppName]*appRoom
	}
}

// appRoom is the room of one app, kept while somebody has or wants some of it.
type appRoom struct {
	bytes *semaphore.Weighted
	users int
}

func newRoom() *room {
	r := &room{all: semaphore.NewWeighted(intakeBytes)}
	r.mu.apps = make(map[spec.AppName]*appRoom)
	return r
}

// acquire waits for bytes, at most intakeBytes/4, until ctx ends.
func (r *room) acquire(ctx context.Context, app spec.AppName, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	r.mu.Lock()
	a := r.mu.apps[app]
	if a == nil {
		a = &appRoom{bytes: semaphore.NewWeighted(intakeBytes / 2)}
		r.mu.apps[app] = a
	}
	a.users++
	r.mu.Unlock()
	err := a.bytes.Acquire(ctx, bytes)
	if err == nil {
		if err = r.all.Acquire(ctx, bytes); err == nil {
			return nil
		}
		a.bytes.Release(bytes)
	}
	r.leave(app, a)
	return err
}

// release gives back what acquire took.
func (r *room) release(app spec.AppName, bytes int64) {
	if bytes == 0 {
		return
	}
	r.mu.Lock()
	a := r.mu.apps[app]
	r.mu.Unlock()
	r.all.Release(bytes)
	a.bytes.Release(bytes)
	r.leave(app, a)
}

func (r *room) leave(app spec.AppName, a *appRoom) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.users--; a.users == 0 {
		delete(r.mu.apps, app)
	}
}
