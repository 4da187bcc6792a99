package triggers

import (
	"math"
	"strings"
	"sync"
	"time"

	"github.com/adhocore/gronx"

	"github.com/pheromone-run/pheromone/spec"
)

// never is a boundary that does not come.
const never = math.MaxInt64

// alignedWindows end at the multiples of slide since 1970, UTC, and are every
// long.
type alignedWindows struct {
	every, slide int64
}

func newAlignedWindows(t *spec.Trigger) (windows, error) {
	every, slide := t.Every.Microseconds(), t.Slide.Microseconds()
	if t.Slide == 0 {
		slide = every
	}
	switch {
	case every < 1:
		return nil, badOption(t, "every", "every is %s, needs a microsecond or more", t.Every)
	case slide < 1 || slide > every:
		return nil, badOption(t, "slide", "slide is %s, needs to be between a microsecond and every (%s)", t.Slide, t.Every)
	case every/slide > spec.MaxWindowsAtOnce: // so many firings an object causes when all its windows were missed
		return nil, badOption(t, "slide", "each object would be in %d windows, %d are allowed", every/slide, spec.MaxWindowsAtOnce)
	}
	return alignedWindows{every, slide}, nil
}

func (w alignedWindows) floor(t int64) int64 {
	into := t % w.slide
	if into < 0 {
		into += w.slide
	}
	return t - into
}

func (w alignedWindows) next(t int64) int64 { return w.floor(t) + w.slide }

func (w alignedWindows) startAfter(end int64) int64 { return end + w.slide - w.every }

// cronWindows lie between one tick of a cron expression and the next. Where the
// clocks of the time zone change, a tick at a fixed hour comes once: when its
// hour is left out, at the moment of the change; when its hour comes twice, the
// first time. An expression that runs through all hours follows the time that
// passes: it ticks in both of two equal hours, and has none to make up for. That
// is what cron itself does.
type cronWindows struct {
	expression string
	location   *time.Location
	fixedHour  bool
}

func newCronWindows(t *spec.Trigger) (windows, error) {
	zone := t.Timezone
	if zone == "" {
		zone = "UTC"
	}
	location, err := loadLocation(zone)
	if err != nil {
		return nil, badOption(t, "timezone", "timezone %q: %w", t.Timezone, err)
	}
	if err := spec.ValidCron(t.Cron); err != nil {
		return nil, badOption(t, "cron", "%w", err)
	}
	hour := strings.Fields(t.Cron)[1]
	c := cronWindows{expression: t.Cron, location: location, fixedHour: !strings.HasPrefix(hour, "*")}
	if c.next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()) == never {
		return nil, badOption(t, "cron", "cron %q names no time that ever comes", t.Cron)
	}
	return c, nil
}

// locations keeps the time zones that triggers have named: time.LoadLocation
// reads a file each time, and a machine is made for each session.
var locations sync.Map // of *time.Location by name

func loadLocation(name string) (*time.Location, error) {
	if l, ok := locations.Load(name); ok {
		return l.(*time.Location), nil
	}
	l, err := time.LoadLocation(name)
	if err != nil {
		return nil, err
	}
	locations.Store(name, l)
	return l, nil
}

func (c cronWindows) startAfter(end int64) int64 { return end }

// floor looks for a time with a tick between it and t, further and further back,
// and then for the last tick: so there is one definition of a tick, that of next.
func (c cronWindows) floor(t int64) int64 {
	const furthest = 30 * 366 * 24 * time.Hour // a 29th of February is at most eight years off
	for back := time.Minute; back < furthest; back *= 2 {
		tick := c.next(t - back.Microseconds())
		if tick > t {
			continue
		}
		for following := c.next(tick); following <= t; following = c.next(tick) {
			tick = following
		}
		return tick
	}
	return t
}

// next computes ticks in local time with a fixed offset from UTC, one stretch
// between two changes of the offset after the other, because the library's own
// search passes over times where the clocks change.
func (c cronWindows) next(t int64) int64 {
	if t == never {
		return never
	}
	at, inclusive := timeOf(t).In(c.location), false
	for range maxStretches {
		if again := c.repeatedUntil(at); at.Before(again) {
			at, inclusive = again, true
		}
		_, offset := at.Zone()
		local, err := gronx.NextTickAfter(c.expression, wall(at, offset), inclusive)
		if err != nil {
			return never
		}
		tick := local.Add(-time.Duration(offset) * time.Second)
		_, change := at.ZoneBounds()
		if !change.IsZero() && !change.After(at) {
			// On the 31st of December of a leap year ZoneBounds ends the year a day early.
			change = at.Add(24 * time.Hour)
		}
		if change.IsZero() || tick.Before(change) {
			return tick.UnixMicro()
		}
		_, offset = change.Zone()
		if c.fixedHour && local.Before(wall(change, offset)) {
			return change.UnixMicro()
		}
		at, inclusive = change, true
	}
	return never
}

// repeatedUntil returns the end of the local times that come for the second time
// in at's stretch, if that matters to ticks; else a time not after at.
func (c cronWindows) repeatedUntil(at time.Time) time.Time {
	change, _ := at.ZoneBounds()
	if !c.fixedHour || change.IsZero() {
		return at
	}
	_, before := change.Add(-time.Second).Zone()
	_, since := change.Zone()
	return change.Add(time.Duration(before-since) * time.Second)
}

// maxStretches bounds a search: up to eight years, from one 29th of February to
// another, with two changes of the clocks in each, and with the ends of the years,
// which ZoneBounds reports as changes too.
const maxStretches = 64

// wall returns t's local time as if it were UTC.
func wall(t time.Time, offset int) time.Time {
	return t.UTC().Add(time.Duration(offset) * time.Second)
}
