package watchdog_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pheromone-run/pheromone/internal/watchdog"
)

// disk answers after a while, which a test sets.
type disk struct {
	takes   atomic.Int64
	touched atomic.Int64
}

func (d *disk) Touch() error {
	d.touched.Add(1)
	<-time.After(time.Duration(d.takes.Load()))
	return nil
}

// said is what a watchdog has called.
type said struct{ hung, answered atomic.Int64 }

func start(d *disk, s *said, change ...func(*watchdog.Config)) *watchdog.Watchdog {
	cfg := watchdog.Config{
		Disk: d, Name: "/data", Bound: 10 * time.Second,
		Hung:     func(error) { s.hung.Add(1) },
		Answered: func(time.Duration) { s.answered.Add(1) },
	}
	for _, c := range change {
		c(&cfg)
	}
	return watchdog.Start(cfg)
}

// pass lets time go by, which costs none here.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestADiskThatHangsIsNoticedOnceAndWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var s said
		w := start(&d, &s)
		defer w.Close()
		pass(time.Minute)
		if touched := d.touched.Load(); touched < 30 || touched > 60 || s.hung.Load() > 0 || w.Err() != nil {
			t.Fatalf("a sound disk was touched %d times in a minute, noticed %d times: %v", touched, s.hung.Load(), w.Err())
		}
		d.takes.Store(int64(30 * time.Second))
		pass(8 * time.Second)
		if s.hung.Load() > 0 {
			t.Error("noticed before the bound")
		}
		pass(6 * time.Second)
		if s.hung.Load() != 1 || w.Err() == nil || !strings.Contains(w.Err().Error(), "the disk under /data has not answered for 10s") {
			t.Errorf("noticed %d times: %v", s.hung.Load(), w.Err())
		}
		d.takes.Store(0)
		pass(30 * time.Second)
		if s.hung.Load() != 1 || s.answered.Load() != 1 || w.Err() != nil {
			t.Errorf("noticed %d times and back %d times: %v", s.hung.Load(), s.answered.Load(), w.Err())
		}
		d.takes.Store(int64(30 * time.Second))
		pass(15 * time.Second)
		if s.hung.Load() != 2 {
			t.Errorf("the second hang: noticed %d times", s.hung.Load())
		}
		d.takes.Store(0)
		pass(time.Minute)
	})
}

func TestADiskThatIsMerelySlowIsLeftInPeace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var s said
		d.takes.Store(int64(9 * time.Second))
		w := start(&d, &s)
		defer w.Close()
		pass(10 * time.Minute)
		if s.hung.Load() > 0 || d.touched.Load() < 10 {
			t.Errorf("noticed %d times, touched %d times", s.hung.Load(), d.touched.Load())
		}
		d.takes.Store(0)
		pass(time.Minute)
	})
}

func TestAProcessThatWasStoppedDoesNotBlameTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var s said
		d.takes.Store(int64(3 * time.Hour))
		seen := make(chan time.Time)
		w := start(&d, &s, func(c *watchdog.Config) { c.TickBy(seen) })
		defer w.Close()
		for d.touched.Load() == 0 {
			seen <- time.Now()
			synctest.Wait()
		}
		for range watchdog.Looks / 2 {
			seen <- time.Now()
		}
		pass(time.Hour) // in which the watchdog gets no processor time
		seen <- time.Now()
		synctest.Wait()
		if s.hung.Load() > 0 {
			t.Error("the time in which the watchdog did not run was counted")
		}
		for range watchdog.Looks {
			seen <- time.Now()
		}
		synctest.Wait()
		if s.hung.Load() != 1 {
			t.Errorf("the disk hangs since: noticed %d times", s.hung.Load())
		}
		pass(3 * time.Hour)
	})
}

func TestADiskThatOthersSyncIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var s said
		w := start(&d, &s, func(c *watchdog.Config) { c.Synced = time.Now })
		defer w.Close()
		pass(time.Minute)
		if d.touched.Load() > 0 {
			t.Errorf("touched %d times", d.touched.Load())
		}
	})
}

func TestClosingDoesNotWaitForADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var s said
		d.takes.Store(int64(time.Hour))
		w := start(&d, &s)
		pass(5 * time.Second)
		began := time.Now()
		w.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("closing took %v", took)
		}
		pass(2 * time.Hour)
	})
}

func TestTheEndComesWhetherItsReasonCanBeSaidOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard, ended := false, 0
		watchdog.End(func() { heard = true }, func(int) { ended++ })
		if !heard || ended != 1 {
			t.Errorf("heard %v, ended %d times", heard, ended)
		}
		frozen := make(chan struct{})
		began := time.Now()
		watchdog.End(func() { <-frozen }, func(int) { ended++ })
		if took := time.Since(began); ended != 2 || took > 2*time.Second {
			t.Errorf("ended %d times, after %v", ended, took)
		}
		close(frozen)
	})
}

func TestAFileIsTouchedAndDoesNotGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "touched")
	f := watchdog.At(path)
	var before []byte
	for range 3 {
		if err := f.Touch(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil || len(content) != 8 || string(content) == string(before) {
			t.Errorf("content %x after %x: %v", content, before, err)
		}
		before = content
	}
	if err := watchdog.At(filepath.Join(path, "no", "folder")).Touch(); err == nil {
		t.Error("a path that can't be was touched")
	}
}
