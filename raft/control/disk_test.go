package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/store"
)

// failingDisk is set for the process that is to end itself: the folder of its
// data, and after a comma the operation on the log that fails.
const failingDisk = "PHEROMONE_TEST_FAILING_DISK"

// failAt fails one write or sync of the store's log.
type failAt struct{ left atomic.Int64 }

func (f *failAt) String() string { return "fail at" }

func (f *failAt) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileFlush:
		if strings.HasSuffix(op.Path, ".log") && f.left.Add(-1) == 0 {
			return errors.New("input/output error of the disk")
		}
	}
	return nil
}

// writeUntilTheDiskFails is the process that must end: it prints what was
// answered, and ends with another status than the store's if it goes on.
func writeUntilTheDiskFails(setting string) {
	dir, at, _ := strings.Cut(setting, ",")
	fault := &failAt{}
	db, err := store.Open(filepath.Join(dir, "store"), store.Options{
		Node: "n1", FS: errorfs.Wrap(vfs.Default, fault), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	group, err := control.Open(context.Background(), control.Config{Node: "n1", Dir: filepath.Join(dir, "snapshots"), DB: db})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	operation, _ := strconv.ParseInt(at, 10, 64)
	fault.left.Store(operation)
	for i := 1; i <= 200; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if _, err := group.Apply(ctx, &control.Set{Key: "n", Value: fmt.Sprint(i)}); err == nil {
			fmt.Println(i)
		}
		cancel()
	}
	os.Exit(4)
}

func TestAFailedWriteOrSyncOfTheLogEndsTheNodeAndLosesNothing(t *testing.T) {
	for _, at := range []int{1, 2, 9, 30} {
		t.Run(fmt.Sprint("operation ", at), func(t *testing.T) {
			n := newNode(t, control.Config{})
			n.close()
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%d", failingDisk, n.dir, at))
			var out, why bytes.Buffer
			child.Stdout, child.Stderr = &out, &why
			err := child.Run()
			var ended *exec.ExitError
			if !errors.As(err, &ended) || ended.ExitCode() != 1 || !strings.Contains(why.String(), "input/output error of the disk") {
				t.Fatalf("the node ended with %v:\n%s", err, why.String())
			}
			answered := 0
			if lines := strings.Fields(out.String()); len(lines) > 0 {
				if answered, err = strconv.Atoi(lines[len(lines)-1]); err != nil {
					t.Fatal(err)
				}
			}
			if answered > at {
				t.Errorf("%d changes were answered, the log failed at operation %d", answered, at)
			}
			n.open()
			if got, _ := strconv.Atoi(n.group.State().Settings["n"]); got < answered {
				t.Errorf("change %d was answered, %d is there", answered, got)
			}
		})
	}
}
