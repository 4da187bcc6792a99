package spec_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/adhocore/gronx"
	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

// A cron without a next time would keep what waits for it waiting for ever; one
// that is refused for no reason is a fault, too.
func TestACronIsTakenIfAndOnlyIfItHasANextTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		field := func(least, most int) string {
			a := rapid.IntRange(least, most).Draw(t, "a")
			b := rapid.IntRange(a, most).Draw(t, "b")
			step := rapid.IntRange(1, most).Draw(t, "step")
			return rapid.SampledFrom([]string{
				"*", fmt.Sprint(a), fmt.Sprintf("*/%d", step), fmt.Sprintf("%d,%d", b, a), fmt.Sprintf("%d-%d", a, b),
			}).Draw(t, "field")
		}
		cron := strings.Join([]string{field(0, 59), field(0, 23), field(26, 31), field(1, 12), field(0, 7)}, " ")
		next, err := gronx.NextTickAfter(cron, time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC), false)
		if valid := spec.ValidCron(cron); (valid == nil) != (err == nil) {
			t.Fatalf("%q comes next at %v, %v; valid: %v", cron, next, err, valid)
		}
	})
}
