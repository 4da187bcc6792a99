package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store/bytelog"
)

// DB is the one store of a node. Its methods may be called at the same time from
// several goroutines; the order of Apply and Commit calls that overlap is not
// said, so each shard has one caller that applies.
//
// A DB that could not write or sync is failed for good: Options.Fatal is called
// once, and every later write returns the reason. Nothing tries again after a
// failed sync, because the kernel may have dropped the pages it could not write.
type DB struct {
	dir    string
	log    *slog.Logger
	pebble *pebble.DB
	bytes  *bytelog.Log
	// segmentBytes is Options.SegmentBytes.
	segmentBytes int64
	lock         interface{ Close() error }
	identity     Identity
	fatal        func(error)
	failure      atomic.Pointer[failure]
	synced       atomic.Int64 // when a log or a folder was last synced, in Unix nanoseconds
	opened       atomic.Bool  // before that, a failure is what Open returns
	disk         disk
	now          func() time.Time
	staging      staging
	repairs      repairs
	holds        holds
	epochs       epochs
	arrivals     arrivals
	sweeper      sweeper
	// blobs is held for reading while entries are applied, and for writing by those
	// who look at what is known of blobs and change it by that.
	blobs sync.RWMutex
}

type failure struct{ err error }

// Options says how a store is opened.
type Options struct {
	// Node is the name of the node. It is written down by the first Open and has
	// to be the same ever after.
	Node string
	FS   vfs.FS       // default: the disk
	Log  *slog.Logger // default: nowhere

	MemTableBytes uint64 // of one memtable, of which up to four exist under load; default 16 MiB
	// ReserveBytes is how much of the disk has to be free for Writable to say yes;
	// default 256 MiB, or a tenth of the disk if that is less. Negative: any.
	ReserveBytes int64
	// HoldReads bounds how long a reader of a large object keeps its bytes from being
	// deleted; default 15 minutes.
	HoldReads time.Duration
	// SegmentBytes is the size of the files of the log of large bytes; default 64 MiB.
	SegmentBytes int64
	// GarbageBytes is how much that log may take beyond twice of what is in use, before
	// what is left of its files is moved to others; default 256 MiB.
	GarbageBytes int64
	// Fatal is called once, when the store has failed and the node has to stop. It
	// may be called from any goroutine, with locks held: it must not call the DB.
	// It should not return, because pebble can't always go on behind a failed write
	// and then ends the process with nothing but stacks. The default logs the
	// reason as the last line and ends the process.
	Fatal func(error)
	Now   func() time.Time // for Identity.Created and the marks of staged blobs; default time.Now
}

// What was measured to choose these is in docs/performance.md.
const (
	// blockBytes is the room for blocks that were read. Pebble takes the memory of
	// memtables from its cache, of which two are there under any load, the one that is
	// written and one that is used again: what they take comes on top.
	blockBytes           = 32 << 20
	defaultMemTableBytes = 16 << 20
	defaultHoldReads     = 15 * time.Minute
	memTablesAtMost      = 4
	defaultSegmentBytes  = 64 << 20
	defaultGarbageBytes  = 256 << 20

	// pebbleFormat is fixed, so that an upgrade of the library alone does not
	// make a folder unreadable for the version before.
	pebbleFormat = pebble.FormatWALSyncChunks
	bloomBits    = 10
)

// Open opens the store in dir, and makes it if dir is empty or not there.
func Open(dir string, o Options) (*DB, error) {
	if o.Node == "" {
		return nil, spec.Errorf(spec.CodeInvalid, "open store %s: the node has no name", dir)
	}
	o.setDefaults()
	db := &DB{dir: dir, log: o.Log, fatal: o.Fatal, now: o.Now}
	db.holds.limit = o.HoldReads
	db.disk = disk{fs: o.FS, dir: dir, reserve: o.ReserveBytes}
	if err := db.open(o); err != nil {
		return nil, err
	}
	return db, nil
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MemTableBytes = cmp.Or(o.MemTableBytes, defaultMemTableBytes)
	o.HoldReads = cmp.Or(o.HoldReads, defaultHoldReads)
	o.SegmentBytes = cmp.Or(o.SegmentBytes, defaultSegmentBytes)
	o.GarbageBytes = cmp.Or(o.GarbageBytes, defaultGarbageBytes)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Fatal == nil {
		log := o.Log
		o.Fatal = func(err error) {
			log.Error("the store has failed, the node stops", "error", err)
			os.Exit(1)
		}
	}
}

func (db *DB) open(o Options) (err error) {
	folder, err := openFolder(o.FS, db.dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = folder.lock.Close()
		}
	}()
	if err := folder.check(o.Node); err != nil {
		return err
	}
	opened, err := openPebble(folder.pebbleDir(), db.pebbleOptions(o, folder.known))
	if err != nil {
		return pebbleError(db.dir, err)
	}
	if !folder.known {
		identity := Identity{Format: formatVersion, Node: o.Node, Created: o.Now().UTC().Truncate(time.Second)}
		if err := folder.finish(identity); err != nil {
			_ = opened.Close()
			return err
		}
	}
	err = sweepTables(o.FS, folder.pebbleDir())
	if err == nil {
		db.bytes, err = bytelog.Open(o.FS, folder.path(bytesFolder), o.SegmentBytes)
	}
	if err != nil {
		_ = opened.Close()
		return fmt.Errorf("open store %s: %w", db.dir, err)
	}
	db.segmentBytes = o.SegmentBytes
	db.pebble, db.lock, db.identity = opened, folder.lock, folder.identity
	db.opened.Store(true)
	if err := db.Err(); err != nil {
		return err
	}
	db.sweeper.start(db, o.GarbageBytes)
	return nil
}

// openPebble returns as an error what pebble meets with a panic, such as a folder
// that can't be synced.
func openPebble(dir string, o *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			cause, ok := fault.(error)
			if !ok {
				cause = fmt.Errorf("%v", fault)
			}
			err = cause
		}
	}()
	return pebble.Open(dir, o)
}

func (db *DB) pebbleOptions(o Options, mustExist bool) *pebble.Options {
	p := &pebble.Options{
		FS:                          &logFS{o.FS, db.fail, func() { db.synced.Store(time.Now().UnixNano()) }}, // pebble compares it
		CacheSize:                   blockBytes + 2*int64(o.MemTableBytes),
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: memTablesAtMost,
		FormatMajorVersion:          pebbleFormat,
		ErrorIfNotExists:            mustExist,
		Logger:                      pebbleLogger{db},
		EventListener:               &pebble.EventListener{},
	}
	var lastLogged atomic.Int64 // a full disk makes pebble retry in a tight loop
	p.EventListener.BackgroundError = func(err error) {
		if pebble.IsCorruptionError(err) {
			db.fail(err)
			return
		}
		if errors.Is(err, syscall.ENOSPC) {
			db.disk.metEnd(time.Now())
		}
		now := time.Now().UnixNano()
		if last := lastLogged.Load(); now-last > int64(time.Second) && lastLogged.CompareAndSwap(last, now) {
			db.log.Error("store: background work failed and is tried again", "error", err)
		}
	}
	p.EventListener.DataCorruption = func(i pebble.DataCorruptionInfo) { db.fail(i.Details) }
	p.EventListener.DiskSlow = func(i pebble.DiskSlowInfo) {
		db.log.Warn("store: the disk is slow", "path", i.Path, "waited", i.Duration)
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBits)
	}
	return p
}

// Close closes the store. What was not synced is synced by it. A failed store is
// only let go of: its files stay locked until the process ends.
func (db *DB) Close() error {
	if err := db.Err(); err != nil {
		db.sweeper.cancel() // it may be the one that waits in Options.Fatal
		return fmt.Errorf("close store %s: %w", db.dir, err)
	}
	db.repairs.close()
	db.sweeper.stop()
	db.holds.close()
	err := errors.Join(db.Sync(), db.bytes.Close(), db.pebble.Close(), db.lock.Close())
	if err != nil {
		return fmt.Errorf("close store %s: %w", db.dir, err)
	}
	return nil
}

// Identity says whose store this is.
func (db *DB) Identity() Identity { return db.identity }

// Err returns why the store has failed, nil if it has not.
func (db *DB) Err() error {
	if f := db.failure.Load(); f != nil {
		return f.err
	}
	return nil
}

// Synced returns when something of the store last reached the disk.
func (db *DB) Synced() time.Time { return time.Unix(0, db.synced.Load()) }

// Metrics returns what pebble counts, for the node's metrics page.
func (db *DB) Metrics() *pebble.Metrics { return db.pebble.Metrics() }

// DiskBytes is how much of the disk the store takes up.
func (db *DB) DiskBytes() int64 {
	return int64(db.pebble.Metrics().DiskSpaceUsage()) + db.bytes.Bytes()
}

func (db *DB) fail(err error) {
	err = spec.Errorf(spec.CodeUnavailable, "the store in %s has failed: %w", db.dir, err).
		WithHint("check the disk and the kernel's log, then start the node again")
	if db.failure.CompareAndSwap(nil, &failure{err}) && db.opened.Load() {
		db.fatal(err)
	}
}

// pebbleLogger passes pebble's log on, and makes sure that what pebble calls
// fatal stops the node with a reason.
type pebbleLogger struct{ db *DB }

func (l pebbleLogger) Infof(format string, args ...any) { l.debug(format, args) }

// Errorf gets what pebble also reports by events or by errors.
func (l pebbleLogger) Errorf(format string, args ...any) { l.debug(format, args) }

func (l pebbleLogger) Fatalf(format string, args ...any) { l.db.fail(fmt.Errorf(format, args...)) }

func (l pebbleLogger) debug(format string, args []any) {
	if l.db.log.Enabled(context.Background(), slog.LevelDebug) {
		l.db.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}
