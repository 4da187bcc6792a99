package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store/bytelog"
)

// What the key of appendBlobHereKey says of a blob's chunks on this replica.
const (
	// hereArriving: they are coming in.
	hereArriving byte = 1
	// hereWhole: all of them are in the database, where versions before the log of bytes
	// have put them.
	hereWhole byte = 2
	// hereLogged: all of them are in the log of bytes, at the places that follow.
	hereLogged byte = 3
	// hereRestoring: they come later in the snapshot that is being restored.
	hereRestoring byte = 4
)

// isWhole tells whether all chunks of a blob are here.
func isWhole(here []byte) bool {
	return len(here) == 1 && here[0] == hereWhole || len(here) > 0 && here[0] == hereLogged
}

// leastPlaceBytes is what a place takes at least in a record.
const leastPlaceBytes = 3

// appendLogged appends what says that the chunks of a blob are at places. Most stand one
// behind the other.
func appendLogged(dst []byte, places []bytelog.Place) []byte {
	dst = binary.AppendUvarint(append(dst, hereLogged), uint64(len(places)))
	var before bytelog.Place
	for _, p := range places {
		if p.Segment != before.Segment {
			before.Offset, before.Length = 0, 0
		}
		dst = binary.AppendVarint(dst, int64(p.Segment-before.Segment))
		dst = binary.AppendVarint(dst, p.Offset-before.Offset-int64(before.Length))
		dst = binary.AppendUvarint(dst, uint64(p.Length))
		before = p
	}
	return dst
}

var errPlaces = errors.New("store: what says where the chunks of a blob are is damaged")

// decodeLogged returns the places of a blob's chunks, false if they are not in the log.
func decodeLogged(here []byte) (places []bytelog.Place, logged bool, err error) {
	if len(here) == 0 || here[0] != hereLogged {
		return nil, false, nil
	}
	n, size := binary.Uvarint(here[1:])
	if size <= 0 {
		return nil, false, errPlaces
	}
	rest := here[1+size:]
	if n > uint64(len(rest)/leastPlaceBytes) {
		return nil, false, errPlaces
	}
	places = make([]bytelog.Place, 0, n)
	var p bytelog.Place
	for range n {
		var numbers [2]int64
		for i := range numbers {
			if numbers[i], size = binary.Varint(rest); size <= 0 {
				return nil, false, errPlaces
			}
			rest = rest[size:]
		}
		length, size := binary.Uvarint(rest)
		if size <= 0 || length > uint64(maxStoredChunk) {
			return nil, false, errPlaces
		}
		rest = rest[size:]
		at := numbers[1]
		if numbers[0] == 0 {
			at += p.Offset + int64(p.Length)
		}
		p = bytelog.Place{Segment: p.Segment + uint64(numbers[0]), Offset: at, Length: uint32(length)}
		if p.Offset < 0 {
			return nil, false, errPlaces
		}
		places = append(places, p)
	}
	if len(rest) > 0 {
		return nil, false, errPlaces
	}
	return places, true, nil
}

// arrivals are the blobs whose chunks are being written to the log of bytes, before a
// record says where they are. The sweep of the log leaves them there.
type arrivals struct {
	mu struct {
		sync.Mutex
		open map[*arrival]struct{}
	}
}

// arrival is one of them, from its first chunk until a record has its places, or nobody
// wants it.
type arrival struct {
	db   *DB
	here []byte // the key of that record, with which the names of its chunks begin

	mu struct {
		sync.Mutex // held while a chunk is written: it is in the log and here, or in neither
		places     []bytelog.Place
	}
}

func (db *DB) arrive(here []byte) *arrival {
	a := &arrival{db: db, here: here}
	db.arrivals.mu.Lock()
	defer db.arrivals.mu.Unlock()
	if db.arrivals.mu.open == nil {
		db.arrivals.mu.open = make(map[*arrival]struct{})
	}
	db.arrivals.mu.open[a] = struct{}{}
	return a
}

func (a *arrival) end() {
	a.db.arrivals.mu.Lock()
	defer a.db.arrivals.mu.Unlock()
	delete(a.db.arrivals.mu.open, a)
}

func (s *arrivals) list() []*arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*arrival, 0, len(s.mu.open))
	for a := range s.mu.open {
		list = append(list, a)
	}
	return list
}

func appendChunkName(dst, here []byte, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, here...), chunk)
}

// splitChunkName returns nil for what is no name.
func splitChunkName(name []byte) (here []byte, chunk uint32) {
	n := len(name) - 4
	if n < 0 {
		return nil, 0
	}
	return name[:n], binary.BigEndian.Uint32(name[n:])
}

// put writes the next chunk.
func (a *arrival) put(stored []byte) error {
	if err := a.db.Err(); err != nil {
		return err
	}
	var name [160]byte
	a.mu.Lock()
	defer a.mu.Unlock()
	place, err := a.db.bytes.Append(appendChunkName(name[:0], a.here, uint32(len(a.mu.places))), stored)
	if err != nil {
		a.db.sweeper.kick() // the disk may be full
		return a.db.logFault(err)
	}
	a.mu.places = append(a.mu.places, place)
	a.db.sweeper.appended(place)
	return nil
}

// chunks is how many were written.
func (a *arrival) chunks() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return uint32(len(a.mu.places))
}

// sync makes what was written durable.
func (a *arrival) sync() error {
	var before []bytelog.Place
	for {
		a.mu.Lock()
		places := slices.Clone(a.mu.places)
		a.mu.Unlock()
		err := a.db.syncPlaces(places)
		if !errors.Is(err, bytelog.ErrGone) {
			return err
		}
		if slices.Equal(places, before) { // no sweep has moved them
			return a.db.logFault(err)
		}
		before = places
	}
}

// syncPlaces makes what is at places durable, which stand in the order in which they
// were written.
func (db *DB) syncPlaces(places []bytelog.Place) error {
	for i, p := range places {
		if i+1 < len(places) && places[i+1].Segment == p.Segment && places[i+1].Offset > p.Offset {
			continue
		}
		if err := db.bytes.Sync(p); errors.Is(err, bytelog.ErrGone) {
			return err
		} else if err != nil {
			return db.logFault(err)
		}
	}
	return nil
}

// record is what says where the chunks are. With it in the database, durably behind
// them, the blob is here. DB.blobs is held for writing from here until it is committed.
func (a *arrival) record() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return appendLogged(nil, a.mu.places)
}

// move takes over that a sweep has copied a chunk to another place.
func (a *arrival) move(chunk uint32, from, to bytelog.Place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if uint64(chunk) < uint64(len(a.mu.places)) && a.mu.places[chunk] == from {
		a.mu.places[chunk] = to
	}
}

// logFault is why the log of bytes could not be written. The store goes on, unless a
// sync failed.
func (db *DB) logFault(err error) error {
	if errors.Is(err, bytelog.ErrSync) {
		db.fail(err)
		return db.Err()
	}
	if errors.Is(err, syscall.ENOSPC) {
		db.disk.metEnd(time.Now())
	}
	return spec.Errorf(spec.CodeUnavailable, "store: write the bytes of a blob: %w", err)
}

// chunks reads the chunks of one blob as they are stored.
type chunks struct {
	db    *DB
	from  chunkReader
	shard spec.ShardID
	name  BlobName

	known  bool // where they are was looked up
	held   bool // in a snapshot that was still held
	logged bool
	places []bytelog.Place
}

// read appends a chunk to dst. It is ErrNotFound if it is not here.
func (c *chunks) read(dst []byte, chunk uint32) ([]byte, error) {
	if h, ok := c.from.(*hold); ok && c.held && h.over() {
		c.known = false // what was deleted since is not read any more
	}
	var gone bytelog.Place
	for {
		if err := c.locate(); err != nil {
			return dst, err
		}
		if !c.logged {
			var key [160]byte
			return c.from.GetTo(dst, AppendBlobChunkKey(key[:0], c.shard, c.name.App, c.name.ID, chunk))
		}
		if uint64(chunk) >= uint64(len(c.places)) {
			return dst, fmt.Errorf("the blob has %d chunks", len(c.places))
		}
		at := c.places[chunk]
		out, err := c.db.bytes.Read(dst, at)
		if !errors.Is(err, bytelog.ErrGone) || at == gone { // the second time its file is lost
			return out, err
		}
		gone, c.known = at, false // a sweep has moved it
	}
}

// locate looks up where the chunks are, once.
func (c *chunks) locate() error {
	if c.known {
		return nil
	}
	h, ok := c.from.(*hold)
	c.held = ok && !h.over()
	var key, room [256]byte
	here, err := c.from.GetTo(room[:0], appendBlobHereKey(key[:0], c.shard, c.name.App, c.name.ID))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if c.places, c.logged, err = decodeLogged(here); err != nil {
		return err
	}
	c.known = true
	return nil
}

// eachChunk calls fn for the chunks of a blob that is whole here, with the keys that
// those have which are in the database.
func (s *Snapshot) eachChunk(shard spec.ShardID, name BlobName, fn func(key, stored []byte) error) error {
	c := chunks{db: s.db, from: s, shard: shard, name: name}
	if err := c.locate(); err != nil {
		return err
	}
	if !c.logged {
		var fault error
		lower, upper := Bounds(appendBlobPrefix(nil, shard, name.App, name.ID))
		err := s.Scan(lower, upper, func(key, value []byte) bool {
			fault = fn(key, value)
			return fault == nil
		})
		return errors.Join(err, fault)
	}
	var key, stored []byte
	for chunk := range uint32(len(c.places)) {
		var err error
		if stored, err = c.read(stored[:0], chunk); err != nil {
			return fmt.Errorf("store: blob %x of shard %d, chunk %d: %w", name.ID, shard, chunk, err)
		}
		key = AppendBlobChunkKey(key[:0], shard, name.App, name.ID, chunk)
		if err := fn(key, stored); err != nil {
			return err
		}
	}
	return nil
}
