package host

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// keep puts a module of so many bytes into cache, used at an hour of the past.
func keep(t *testing.T, cache, module string, bytes int, hoursAgo time.Duration) *kept {
	t.Helper()
	k, err := openKept(cache, []byte(module))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.close)
	if err := os.Mkdir(filepath.Join(k.folder, "compiler"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.folder, "compiler", "code"), make([]byte, bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-hoursAgo * time.Hour)
	if err := os.Chtimes(k.folder, then, then); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatWasNotNeededForLongestIsRemovedOnceThereIsTooMuch(t *testing.T) {
	cache := t.TempDir()
	oldest, used, recent := keep(t, cache, "oldest", 100, 9), keep(t, cache, "used", 100, 10), keep(t, cache, "recent", 100, 1)
	busy := keep(t, cache, "busy", 100, 20) // another host has it locked
	for _, k := range []*kept{oldest, used, recent} {
		k.close()
	}
	used.used()
	mine := keep(t, cache, "mine", 100, 30)
	mine.prune(450)
	for name, c := range map[string]struct {
		kept  *kept
		there bool
	}{"oldest": {oldest, false}, "used": {used, true}, "recent": {recent, true}, "busy": {busy, true}, "mine": {mine, true}} {
		if there := len(c.kept.files()) > 0; there != c.there {
			t.Errorf("%s is there: %v", name, there)
		}
	}
	if again := keep(t, cache, "oldest", 1, 0); len(again.files()) != 1 {
		t.Errorf("what was removed can't be kept again: %q", again.files())
	}
}
