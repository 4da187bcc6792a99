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
	a := r.enter(app)
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

// tryAcquire is acquire if there are as many bytes now.
func (r *room) tryAcquire(app spec.AppName, bytes int64) bool {
	if bytes == 0 {
		return true
	}
	a := r.enter(app)
	if a.bytes.TryAcquire(bytes) {
		if r.all.TryAcquire(bytes) {
			return true
		}
		a.bytes.Release(bytes)
	}
	r.leave(app, a)
	return false
}

// enter finds or makes the room of an app for one more user.
func (r *room) enter(app spec.AppName) *appRoom {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.mu.apps[app]
	if a == nil {
		a = &appRoom{bytes: semaphore.NewWeighted(intakeBytes / 2)}
		r.mu.apps[app] = a
	}
	a.users++
	return a
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
