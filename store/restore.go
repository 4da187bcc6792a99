package store

import (
	"bytes"
	"errors"
	"io"

	"github.com/pheromone-run/pheromone/spec"
)

// restore reads one snapshot into a shard.
type restore struct {
	db    *DB
	shard spec.ShardID
	batch Batch
	meta  []byte
	// marked are the blobs that were staged here before; theirs are those staged in
	// the snapshot. A blob of the snapshot that is staged only here has been adopted
	// there, so its mark has to go.
	marked, theirs map[BlobName]struct{}
	// adopted goes through the blobs that entries had adopted here, in step with
	// those of the snapshot, so that the bytes stay of those that are in both.
	adopted *adoptedBefore
	last    []byte // the last key of an adopted blob in the snapshot
	logged  restoredChunks
}

func (s *restore) run(r io.Reader) (ShardMeta, error) {
	frames, err := openFrames(r, s.shard)
	if err != nil {
		return ShardMeta{}, err
	}
	defer frames.close()
	defer s.logged.end()
	if err := s.clear(); err != nil {
		return ShardMeta{}, err
	}
	defer s.adopted.close()
	key := AppendShardPrefix(nil, s.shard)
	for {
		suffix, value, err := frames.next()
		if err == io.EOF {
			return s.finish()
		}
		if err != nil {
			return ShardMeta{}, err
		}
		if err := s.put(append(key[:4], suffix...), value); err != nil {
			return ShardMeta{}, err
		}
	}
}

// clear deletes the range but for what came to this replica outside of the log,
// and marks it as half restored. Nothing of a blob may begin to come in between
// the look at what is there and the deletion.
func (s *restore) clear() error {
	s.db.blobs.Lock()
	defer s.db.blobs.Unlock()
	s.marked, s.theirs = make(map[BlobName]struct{}), make(map[BlobName]struct{})
	if err := scanStaged(s.db, s.shard, func(b StagedBlob) { s.marked[b.BlobName] = struct{}{} }); err != nil {
		return err
	}
	lower, upper := ShardRange(s.shard)
	s.batch.DeleteRange(lower, appendTable(nil, s.shard, tableBlob))
	s.batch.DeleteRange(Bounds(appendTable(nil, s.shard, tableBlobRefs)))
	s.batch.Set(appendRestoringKey(nil, s.shard), nil)
	if err := s.clearChunks(upper); err != nil {
		return err
	}
	if err := s.eachRestoring(func(key []byte) error {
		s.batch.Delete(key)
		return s.commitFull()
	}); err != nil {
		return err
	}
	if err := s.commit(); err != nil {
		return err
	}
	s.adopted = newAdoptedBefore(s.db, s.shard)
	return nil
}

// clearChunks deletes the chunks of blobs that came in entries, and what lies
// behind all blobs: the snapshot has those.
func (s *restore) clearChunks(upper []byte) error {
	var from []byte // where a run of such blobs begins; nil outside of one
	at, end := Bounds(appendTable(nil, s.shard, tableBlobChunk))
	for at != nil {
		key, err := firstKey(s.db, at, end)
		if err != nil || key == nil {
			if from != nil {
				s.batch.DeleteRange(from, end)
			}
			s.batch.DeleteRange(end, upper)
			return err
		}
		keep, next := false, append(key, 0)
		if name, err := blobOf(key, tableBlobChunk); err == nil {
			var prefix []byte
			prefix, next = Bounds(appendBlobPrefix(nil, s.shard, name.App, name.ID))
			key = prefix
			if keep, err = s.keeps(name); err != nil {
				return err
			}
		}
		switch {
		case keep && from != nil:
			s.batch.DeleteRange(from, key)
			from = nil
			if err := s.commitFull(); err != nil {
				return err
			}
		case !keep && from == nil:
			from = key
		}
		at = next
	}
	return nil
}

// keeps tells whether a blob's chunks came to this replica outside of the log.
func (s *restore) keeps(name BlobName) (bool, error) {
	if _, ok := s.marked[name]; ok {
		return true, nil
	}
	return s.db.Has(appendBlobHereKey(nil, s.shard, name.App, name.ID))
}

func (s *restore) put(key, value []byte) error {
	t := table(0)
	if len(key) > 4 {
		t = table(key[4])
	}
	if t > tableBlob {
		if err := s.forget(s.adopted.rest()); err != nil {
			return err
		}
	}
	switch t {
	case tableMeta:
		s.meta = bytes.Clone(value)
		return nil
	case tableRestoring:
		return errors.New("the snapshot is of a shard that was half restored itself")
	case tableBlob:
		if bytes.Compare(key, s.last) <= 0 {
			return errors.New("the snapshot's keys are out of order")
		}
		s.last = append(s.last[:0], key...)
		if err := s.forget(s.adopted.before(key)); err != nil {
			return err
		}
		if name, err := blobOf(key, t); err == nil {
			s.adoptHere(name)
		}
	case tableStaged:
		if name, err := blobOf(key, t); err == nil {
			s.theirs[name] = struct{}{}
		}
	case tableBlobHere:
		return s.putHere(key, value)
	case tableBlobChunk:
		name, err := blobOf(key, t)
		if err != nil {
			break
		}
		if _, there := s.theirs[name]; !there { // of versions that kept no record of adopted blobs
			s.adoptHere(name)
		}
		if put, err := s.putLogged(name, key, value); put || err != nil {
			return err
		}
	}
	s.batch.Set(key, value)
	return s.flushFull()
}

// adoptHere takes the mark away that a blob has on this replica only.
func (s *restore) adoptHere(name BlobName) {
	if _, here := s.marked[name]; here {
		s.batch.Delete(AppendStagedKey(nil, s.shard, name.App, name.ID))
	}
}

// forget deletes blobs that nothing refers to in the snapshot.
func (s *restore) forget(names []BlobName) error {
	for _, name := range names {
		DeleteBlob(&s.batch, s.shard, name.App, Blob{ID: name.ID})
		if err := s.flushFull(); err != nil {
			return err
		}
	}
	return s.adopted.err
}

// finish makes the range whole: the meta comes last.
func (s *restore) finish() (meta ShardMeta, err error) {
	if err := errors.Join(s.forget(s.adopted.rest()), s.endLogged()); err != nil {
		return ShardMeta{}, err
	}
	s.batch.Delete(appendRestoringKey(nil, s.shard))
	if s.meta != nil {
		if meta, err = DecodeShardMeta(s.meta); err != nil {
			return ShardMeta{}, err
		}
		s.batch.Set(appendMetaKey(nil, s.shard), s.meta)
	}
	if err := s.flush(); err != nil {
		return ShardMeta{}, err
	}
	return meta, s.db.Sync()
}

func (s *restore) flushFull() error {
	if s.batch.Len() < restoreBatchBytes {
		return nil
	}
	return s.flush()
}

// flush writes the batch, and where the chunks are of the blobs that are whole.
func (s *restore) flush() error {
	if err := s.logged.sync(); err != nil {
		return err
	}
	if len(s.logged.whole) == 0 {
		return s.commit()
	}
	s.db.blobs.Lock()
	defer s.db.blobs.Unlock()
	for _, a := range s.logged.whole {
		s.batch.Set(a.here, a.record())
	}
	if err := s.commit(); err != nil {
		return err
	}
	s.logged.written()
	return nil
}

// commitFull is flushFull with DB.blobs held, before anything has come.
func (s *restore) commitFull() error {
	if s.batch.Len() < restoreBatchBytes {
		return nil
	}
	return s.commit()
}

func (s *restore) commit() error {
	defer s.batch.Reset()
	return s.db.Commit(&s.batch, false)
}

// adoptedBefore goes through the adopted blobs of a shard as it was.
type adoptedBefore struct {
	snap  *Snapshot
	lower []byte // where it goes on; nil at the end
	upper []byte
	page  []BlobName
	err   error
	shard spec.ShardID
}

func newAdoptedBefore(db *DB, shard spec.ShardID) *adoptedBefore {
	a := &adoptedBefore{snap: db.Snapshot(), shard: shard}
	a.lower, a.upper = Bounds(appendTable(nil, shard, tableBlob))
	return a
}

func (a *adoptedBefore) close() { _ = a.snap.Close() }

// peek returns the next blob, false at the end.
func (a *adoptedBefore) peek() (BlobName, bool) {
	if len(a.page) == 0 && a.lower != nil && a.err == nil {
		a.page, a.lower, a.err = namesIn(a.snap, tableBlob, a.lower, a.upper, lackingPage)
	}
	if len(a.page) == 0 || a.err != nil {
		return BlobName{}, false
	}
	return a.page[0], true
}

// before returns the blobs whose keys come before one, and passes by the one itself.
func (a *adoptedBefore) before(key []byte) (names []BlobName) {
	for {
		name, ok := a.peek()
		if !ok {
			return names
		}
		switch bytes.Compare(AppendBlobKey(nil, a.shard, name.App, name.ID), key) {
		case -1:
			names = append(names, name)
		case 1:
			return names
		}
		a.page = a.page[1:]
	}
}

// rest returns all that are left.
func (a *adoptedBefore) rest() []BlobName { return a.before(a.upper) }
