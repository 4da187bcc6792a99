// Package failpoint lets a test kill a node at a chosen step: the process ends
// itself with SIGKILL when it comes to the point that PHEROMONE_FAILPOINT names,
// as "point" or "point:3" for the third time. Without that variable, which only
// tests set, a point costs one comparison.
//
// It imports nothing of ours; packages with steps worth dying at import it.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable is the environment variable that arms a point.
const Variable = "PHEROMONE_FAILPOINT"

var (
	armed string
	left  atomic.Int64
)

func init() { arm(os.Getenv(Variable)) }

func arm(setting string) {
	point, count, found := strings.Cut(setting, ":")
	armed = point
	left.Store(1)
	if n, err := strconv.Atoi(count); found && err == nil && n > 0 {
		left.Store(int64(n))
	}
}

// Armed tells whether any point is armed.
func Armed() bool { return armed != "" }

// Hit ends the process if point is the one that is armed and its time has come.
func Hit(point string) {
	if armed == "" || armed != point || left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
