package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/store/bytelog"
)

// Bounds of how often the log of bytes is swept. To see what of it is garbage, all
// records are read that say where the chunks of blobs are.
const (
	sweepEvery    = 10 * time.Second // while something comes or goes
	sweepIdle     = 5 * time.Minute  // while nothing does
	sweepDoomed   = time.Second      // while a snapshot keeps what is to be removed
	sweepPauseFor = 10               // a sweep takes one part in so many of the time
	// repointPage is how many moved chunks are written down with DB.blobs held.
	repointPage = 256
)

// sweeper removes what is garbage in the log of bytes.
type sweeper struct {
	ctx     context.Context
	cancel  context.CancelFunc
	done    sync.WaitGroup
	kicked  chan struct{}
	segment atomic.Uint64 // the highest with a record

	// allowed is how much garbage is left alone, and as much as is not garbage.
	allowed int64

	mu struct {
		sync.Mutex // one sweep at a time
		// doomed are the segments that nothing refers to any more, and from which epoch
		// on no snapshot does.
		doomed map[uint64]uint64
	}
}

// epochs tell how old the open snapshots are.
type epochs struct {
	mu struct {
		sync.Mutex
		now  uint64
		open map[uint64]int
	}
}

func (e *epochs) enter() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.open == nil {
		e.mu.open = make(map[uint64]int)
	}
	e.mu.open[e.mu.now]++
	return e.mu.now
}

func (e *epochs) leave(epoch uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.open[epoch]--; e.mu.open[epoch] == 0 {
		delete(e.mu.open, epoch)
	}
}

// next begins an epoch.
func (e *epochs) next() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.now++
	return e.mu.now
}

// oldest is the epoch of the oldest open snapshot.
func (e *epochs) oldest() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	oldest := e.mu.now
	for epoch := range e.mu.open {
		oldest = min(oldest, epoch)
	}
	return oldest
}

func (s *sweeper) start(db *DB, allowed int64) {
	s.allowed = allowed
	s.kicked = make(chan struct{}, 1)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.done.Go(func() { db.sweepOn(s.ctx) })
}

func (s *sweeper) stop() {
	s.cancel()
	s.done.Wait()
}

func (s *sweeper) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

// appended notes where a record was written: with a new segment it may be time to sweep.
func (s *sweeper) appended(p bytelog.Place) {
	if before := s.segment.Load(); p.Segment > before && s.segment.CompareAndSwap(before, p.Segment) && before > 0 {
		s.kick()
	}
}

// sweepOn sweeps until ctx ends.
func (db *DB) sweepOn(ctx context.Context) {
	const never = -1
	seen := int64(never) // what the log took after the last sweep
	least := time.Now()  // when the next one may be
	due, wait := least, sweepEvery
	if len(db.bytes.Sealed()) == 0 {
		due = due.Add(wait)
	}
	for db.Err() == nil {
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-db.sweeper.kicked:
			timer.Stop()
			if db.bytes.Bytes()-seen >= db.sweeper.allowed/2 || db.disk.tight() {
				due = least
			}
			continue
		case <-timer.C:
		}
		before := db.bytes.Bytes()
		result, err := db.sweepLog(ctx)
		if err != nil && ctx.Err() == nil && db.Err() == nil {
			db.log.Warn("store: the log of large bytes can't be swept", "error", err)
		}
		pause := sweepPauseFor * result.took
		switch {
		case result.behind && err == nil:
			pause, wait = result.took, 0
		case result.doomed > 0:
			wait = sweepDoomed
		case result.removed || before != seen:
			wait = sweepEvery
		default:
			wait = min(2*wait, sweepIdle)
		}
		seen, least = db.bytes.Bytes(), time.Now().Add(pause)
		due = time.Now().Add(max(wait, pause))
	}
}

// swept is what a sweep has found.
type swept struct {
	removed bool          // something was
	behind  bool          // there is far more garbage than is left alone
	doomed  int           // segments that snapshots still need
	took    time.Duration // to look for garbage and to move what is not
}

// sweepLog removes the segments that nothing refers to. If there is more garbage than is
// left alone, it moves what is left of those that are less than half in use. Garbage that
// may stay is as much as is in use, and what is allowed besides.
func (db *DB) sweepLog(ctx context.Context) (result swept, err error) {
	s := &db.sweeper
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		removed, removeErr := db.removeDoomed()
		result.removed, result.doomed = result.removed || removed, len(s.mu.doomed)
		err = errors.Join(err, removeErr)
	}()
	begin := time.Now()
	sealed := slices.DeleteFunc(db.bytes.Sealed(), func(seg bytelog.Segment) bool {
		_, doomed := s.mu.doomed[seg.Number]
		return doomed
	})
	if len(sealed) == 0 {
		return result, nil
	}
	used, err := db.usedOfLog(ctx)
	if err != nil {
		return result, err
	}
	var unused []uint64
	var total, live int64
	rest := sealed[:0]
	for _, seg := range sealed {
		if used[seg.Number] == 0 {
			unused = append(unused, seg.Number)
			continue
		}
		total, live = total+seg.Bytes, live+used[seg.Number]
		rest = append(rest, seg)
	}
	result.took = time.Since(begin)
	if err := db.doom(unused); err != nil {
		return result, err
	}
	begin = time.Now()
	tight := db.disk.tight()
	slices.SortFunc(rest, func(a, b bytelog.Segment) int {
		return cmp.Compare(used[a.Number]*b.Bytes, used[b.Number]*a.Bytes)
	})
	for _, seg := range rest {
		excess := total - 2*live - s.allowed
		sparse := 2*used[seg.Number] < seg.Bytes
		if !sparse || excess <= 0 && !tight {
			break
		}
		result.behind = tight || excess > live+s.allowed
		if err := db.moveSegment(ctx, seg.Number); err != nil {
			return result, err
		}
		total -= seg.Bytes - used[seg.Number]
	}
	result.took += time.Since(begin)
	return result, nil
}

// doom has segments removed once no snapshot is open that is older than now. What says
// that nothing refers to them is made durable first: after a power cut nothing does.
func (db *DB) doom(segments []uint64) error {
	if len(segments) == 0 {
		return nil
	}
	if err := db.Sync(); err != nil {
		return err
	}
	if db.sweeper.mu.doomed == nil {
		db.sweeper.mu.doomed = make(map[uint64]uint64)
	}
	epoch := db.epochs.next()
	for _, number := range segments {
		db.sweeper.mu.doomed[number] = epoch
	}
	return nil
}

func (db *DB) removeDoomed() (removed bool, err error) {
	oldest := db.epochs.oldest()
	for number, epoch := range db.sweeper.mu.doomed {
		if epoch <= oldest {
			delete(db.sweeper.mu.doomed, number)
			err = errors.Join(err, db.bytes.Remove(number))
			removed = true
		}
	}
	return removed, err
}

// usedOfLog returns how many bytes of each segment are in use. It has to be asked after
// the segments were listed: what comes later is in none of those. Blobs that are coming
// in are counted before the records, to which they pass.
func (db *DB) usedOfLog(ctx context.Context) (map[uint64]int64, error) {
	used := make(map[uint64]int64)
	count := func(places []bytelog.Place) {
		for _, p := range places {
			used[p.Segment] += max(int64(p.Length), 1)
		}
	}
	for _, a := range db.arrivals.list() {
		a.mu.Lock()
		count(a.mu.places)
		a.mu.Unlock()
	}
	var from []byte
	for {
		first, err := firstKey(db, from, nil)
		if err != nil || first == nil {
			return used, err
		}
		var fault error
		shard := first[:min(4, len(first))]
		lower, upper := Bounds(append(slices.Clone(shard), byte(tableBlobHere)))
		err = db.Scan(lower, upper, func(_, value []byte) bool {
			var places []bytelog.Place
			if places, _, fault = decodeLogged(value); fault == nil {
				fault = ctx.Err()
			}
			count(places)
			return fault == nil
		})
		if err := errors.Join(err, fault); err != nil {
			return nil, err
		}
		if _, from = Bounds(shard); from == nil {
			return used, nil
		}
	}
}

// moved is a chunk that was copied to the end of the log.
type moved struct {
	here     []byte
	chunk    uint32
	from, to bytelog.Place
}

// moveSegment copies what is in use of a segment to the end of the log, notes where it is
// now, and dooms the segment.
func (db *DB) moveSegment(ctx context.Context, number uint64) error {
	var list []moved
	err := db.bytes.Each(number, func(name []byte, p bytelog.Place) error {
		here, chunk := splitChunkName(name)
		inUse, err := db.refersTo(here, chunk, p)
		if inUse {
			list = append(list, moved{here: slices.Clone(here), chunk: chunk, from: p})
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return err
	}
	places := make([]bytelog.Place, len(list))
	var data []byte
	for i := range list {
		m := &list[i]
		data, err = db.bytes.Read(data[:0], m.from)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if m.to, err = db.bytes.Append(appendChunkName(nil, m.here, m.chunk), data); err != nil {
			return db.logFault(err)
		}
		places[i] = m.to
	}
	if err := db.syncPlaces(places); err != nil {
		return err
	}
	for page := range slices.Chunk(list, repointPage) {
		if err := db.repoint(page); err != nil {
			return err
		}
	}
	return db.doom([]uint64{number})
}

// refersTo tells whether a chunk is at a place.
func (db *DB) refersTo(here []byte, chunk uint32, p bytelog.Place) (bool, error) {
	for _, a := range db.arrivals.list() {
		if bytes.Equal(a.here, here) && a.has(chunk, p) {
			return true, nil
		}
	}
	places, err := db.placesOf(here)
	return uint64(chunk) < uint64(len(places)) && places[chunk] == p, err
}

func (a *arrival) has(chunk uint32, p bytelog.Place) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return uint64(chunk) < uint64(len(a.mu.places)) && a.mu.places[chunk] == p
}

// placesOf returns where the chunks of a blob are, none if they are not in the log.
func (db *DB) placesOf(here []byte) ([]bytelog.Place, error) {
	value, err := db.Get(here)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	places, _, err := decodeLogged(value)
	return places, err
}

// repoint notes where chunks are now, of those that are still in use.
func (db *DB) repoint(list []moved) error {
	db.blobs.Lock()
	defer db.blobs.Unlock()
	arriving := db.arrivals.list()
	var b Batch
	for len(list) > 0 {
		here := list[0].here
		places, err := db.placesOf(here)
		if err != nil {
			return err
		}
		changed := false
		for len(list) > 0 && bytes.Equal(list[0].here, here) {
			m := list[0]
			if uint64(m.chunk) < uint64(len(places)) && places[m.chunk] == m.from {
				places[m.chunk], changed = m.to, true
			}
			for _, a := range arriving {
				if bytes.Equal(a.here, here) {
					a.move(m.chunk, m.from, m.to)
				}
			}
			list = list[1:]
		}
		if changed {
			b.Set(here, appendLogged(nil, places))
		}
	}
	return db.Commit(&b, false)
}
