package watchdog

import "time"

// Looks is how many ticks make a Bound.
const Looks = ticks

// TickBy has the watchdog see the ticks that a test sends, and no others.
func (c *Config) TickBy(seen <-chan time.Time) { c.seen = seen }
