package watchdog

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Disk is what is watched. Touch returns once something new is on it, or with an
// error: a disk that fails answers, and is not the watchdog's business.
type Disk interface {
	Touch() error
}

// Config says what is watched and what happens then. Disk and Hung are required.
type Config struct {
	Disk Disk
	// Name is what the disk is called in errors: its folder.
	Name string
	// Bound is how long the disk may take. Default 10 s.
	Bound time.Duration
	// Every is how long the disk is left alone after it has answered. Default 1 s.
	Every time.Duration
	// Synced returns when something was last known to reach the disk; nil: never.
	Synced func() time.Time
	// Hung is called when the disk has not answered for Bound, on a goroutine of the
	// watchdog, and Answered if it has at last.
	Hung     func(error)
	Answered func(after time.Duration)

	seen <-chan time.Time // ticks of a test
}

// DefaultBound is far above what a disk takes that is merely slow.
const DefaultBound = 10 * time.Second

const (
	defaultEvery = time.Second
	// ticks is how many looks there are in a Bound.
	ticks = 50
)

// Watchdog watches one disk.
type Watchdog struct {
	cfg  Config
	hung atomic.Pointer[error]
	stop chan struct{}
	done chan struct{}
}

// Start begins to watch.
func Start(cfg Config) *Watchdog {
	if cfg.Bound <= 0 {
		cfg.Bound = DefaultBound
	}
	if cfg.Every <= 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Synced == nil {
		cfg.Synced = func() time.Time { return time.Time{} }
	}
	if cfg.Answered == nil {
		cfg.Answered = func(time.Duration) {}
	}
	w := &Watchdog{cfg: cfg, stop: make(chan struct{}), done: make(chan struct{})}
	go w.watch()
	return w
}

// Err returns an error while the disk does not answer.
func (w *Watchdog) Err() error {
	if err := w.hung.Load(); err != nil {
		return *err
	}
	return nil
}

// Close ends the watching. It does not wait for a disk that hangs.
func (w *Watchdog) Close() {
	close(w.stop)
	<-w.done
}

// watch looks at the disk tick by tick.
func (w *Watchdog) watch() {
	defer close(w.done)
	tick := w.cfg.Bound / ticks
	seen := w.cfg.seen
	if seen == nil {
		clock := time.NewTicker(tick)
		defer clock.Stop()
		seen = clock.C
	}
	var touched chan struct{} // closed when the disk has answered; nil while it is not asked
	waited, rested := time.Duration(0), w.cfg.Every
	for {
		select {
		case <-w.stop:
			return
		case <-seen:
		}
		if touched == nil {
			if rested += tick; rested < w.cfg.Every {
				continue
			}
			rested = 0
			if time.Since(w.cfg.Synced()) < w.cfg.Every {
				continue
			}
			touched, waited = w.touch(), 0
			continue
		}
		waited += tick
		select {
		case <-touched:
			touched = nil
			if w.hung.Swap(nil) != nil {
				w.cfg.Answered(waited)
			}
		default:
			if waited >= w.cfg.Bound && w.hung.Load() == nil {
				err := fmt.Errorf("the disk under %s has not answered for %v", w.cfg.Name, w.cfg.Bound)
				w.hung.Store(&err)
				w.cfg.Hung(err)
			}
		}
	}
}

func (w *Watchdog) touch() chan struct{} {
	touched := make(chan struct{})
	go func() {
		defer close(touched)
		_ = w.cfg.Disk.Touch()
	}()
	return touched
}
