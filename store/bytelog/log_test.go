package bytelog_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pheromone-run/pheromone/store/bytelog"
)

func open(t *testing.T, fs vfs.FS, segmentSize int64) *bytelog.Log {
	t.Helper()
	l, err := bytelog.Open(fs, "bytes", segmentSize)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// record is one that was appended.
type record struct {
	name string
	data []byte
	at   bytelog.Place
}

func noise(random *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func appendSome(t *testing.T, l *bytelog.Log, random *rand.Rand, n int) (all []record) {
	t.Helper()
	for i := range n {
		r := record{name: fmt.Sprint("record-", i), data: noise(random, random.IntN(5000))}
		var err error
		if r.at, err = l.Append([]byte(r.name), r.data); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func check(t *testing.T, l *bytelog.Log, all []record) {
	t.Helper()
	for _, r := range all {
		got, err := l.Read([]byte("before "), r.at)
		if err != nil || !bytes.Equal(got, append([]byte("before "), r.data...)) {
			t.Fatalf("%s is read as %d bytes of %d, %v", r.name, len(got)-7, len(r.data), err)
		}
	}
}

// list goes over a segment.
func list(t *testing.T, l *bytelog.Log, segment uint64) (all []record) {
	t.Helper()
	err := l.Each(segment, func(name []byte, p bytelog.Place) error {
		all = append(all, record{name: string(name), at: p})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWhatWasAppendedIsReadAndListedAlsoAfterAStart(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	fs := vfs.NewMem()
	l := open(t, fs, 20_000)
	all := appendSome(t, l, random, 50)
	check(t, l, all)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, fs, 20_000)
	check(t, l, all)
	var listed []record
	for _, s := range l.Sealed() {
		listed = append(listed, list(t, l, s.Number)...)
	}
	if !slices.EqualFunc(all, listed, func(a, b record) bool { return a.name == b.name && a.at == b.at }) {
		t.Errorf("%d records are listed, want %d in the order in which they came", len(listed), len(all))
	}
	newest := l.Sealed()[len(l.Sealed())-1]
	if next := appendSome(t, l, random, 1)[0]; next.at.Segment <= newest.Number {
		t.Errorf("after a start a record is in segment %d, which was there before", next.at.Segment)
	}
}

func TestACrashTakesNothingThatWasSynced(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 3))
		fs := vfs.NewCrashableMem()
		l := open(t, fs, 20_000)
		all := appendSome(t, l, random, 30)
		synced := random.IntN(len(all))
		for _, r := range all[:synced] {
			if err := l.Sync(r.at); err != nil {
				t.Fatal(err)
			}
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: random})
		after := open(t, crashed, 20_000)
		check(t, after, all[:synced])
		there := map[bytelog.Place]bool{}
		for _, s := range after.Sealed() {
			for _, r := range list(t, after, s.Number) {
				there[r.at] = true
			}
		}
		for _, r := range all[:synced] {
			if !there[r.at] {
				t.Fatalf("seed %d: %s, which was synced, is not listed", seed, r.name)
			}
		}
	}
}

func TestWhoReadsASegmentThatIsRemovedReadsOnOrIsTold(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 8))
	l := open(t, vfs.NewMem(), 1000)
	all := appendSome(t, l, random, 40)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for _, r := range all {
				got, err := l.Read(nil, r.at)
				if err == nil && !bytes.Equal(got, r.data) || err != nil && !errors.Is(err, bytelog.ErrGone) {
					t.Errorf("%s is read as %d bytes of %d, %v", r.name, len(got), len(r.data), err)
				}
			}
		})
	}
	before := l.Bytes()
	for _, s := range l.Sealed() {
		if err := l.Remove(s.Number); err != nil {
			t.Error(err)
		}
		before -= s.Bytes
	}
	readers.Wait()
	if l.Bytes() != before {
		t.Errorf("%d bytes are left, want %d", l.Bytes(), before)
	}
	if _, err := l.Read(nil, all[0].at); !errors.Is(err, bytelog.ErrGone) {
		t.Errorf("a record of a removed segment is read with %v", err)
	}
}

func TestManyAppendAndSyncAtOnce(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, fs, 50_000)
	var mu sync.Mutex
	var all []record
	var writers sync.WaitGroup
	for i := range uint64(8) {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(i, i))
			for n := range 50 {
				r := record{name: fmt.Sprint(i, "-", n), data: noise(random, random.IntN(3000))}
				var err error
				if r.at, err = l.Append([]byte(r.name), r.data); err == nil {
					err = l.Sync(r.at)
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	check(t, open(t, fs.CrashClone(vfs.CrashCloneCfg{}), 50_000), all)
}

// failing has the next call of a kind fail.
type failing struct {
	kind errorfs.OpKind
	now  atomic.Bool
}

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if op.Kind == f.kind && f.now.CompareAndSwap(true, false) {
		return errDisk
	}
	return nil
}

var errDisk = errors.New("input/output error")

func TestAFailedSyncIsNeverForgotten(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileSync} {
		fault := &failing{kind: kind}
		l := open(t, errorfs.Wrap(vfs.NewMem(), fault), 8<<20)
		at, err := l.Append([]byte("a"), make([]byte, 1<<10))
		if err != nil {
			t.Fatal(err)
		}
		fault.now.Store(true)
		_, failed := l.Append([]byte("b"), make([]byte, 1<<20))
		if failed == nil {
			failed = l.Sync(at)
		}
		for _, err := range []error{failed, l.Sync(at)} {
			if !errors.Is(err, bytelog.ErrSync) || !errors.Is(err, errDisk) {
				t.Errorf("kind %d: %v", kind, err)
			}
		}
	}
}
