package leader_test

import (
	"errors"
	"testing"
)

func TestEachFailedAttemptIsTold(t *testing.T) {
	w := newWorld(t, 1, oneFunction(""), map[string]function{"next": next, "f": func(c *call) error {
		if c.Attempt == 1 {
			return errors.New("not yet")
		}
		return permanent("never")
	}})
	w.failed(w.put("in", "x", ""))
	wantLines(t, w.told.all(), "node f: attempt 1: failed: not yet", "node f: attempt 2: permanent: never")
}
