package failpoint

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// ClockVariable is the environment variable that puts the node's clock wrong. It
// names a file that holds how far, as in 90s or -5m; what the file says may change
// while the process runs, as a clock that is set does.
const ClockVariable = "PHEROMONE_CLOCK"

// clockLook is how often the file is looked at.
const clockLook = 20 * time.Millisecond

// clock is the system's clock, and how wrong it is to be.
type clock struct {
	file string

	mu     sync.Mutex
	looked time.Time
	offset time.Duration
}

// Clock returns the clock that value, of ClockVariable, asks for; nil, for the
// system's, if it is empty.
func Clock(value string) (now func() time.Time, err error) {
	if value == "" {
		return nil, nil
	}
	c := &clock{file: value}
	if c.offset, err = readOffset(value); err != nil {
		return nil, fmt.Errorf("%s: %w", ClockVariable, err)
	}
	return c.now, nil
}

func readOffset(file string) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(string(text)))
}

func (c *clock) now() time.Time {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) > clockLook {
		c.looked = now
		if offset, err := readOffset(c.file); err == nil { // else it is being written
			c.offset = offset
		}
	}
	return now.Add(c.offset)
}
