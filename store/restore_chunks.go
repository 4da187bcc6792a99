package store

import (
	"bytes"
	"errors"
)

// chunkOverhead is what is reckoned for a chunk besides its bytes.
const chunkOverhead = 1 << 10

// restoredChunks are the blobs whose chunks a restore has put into the log of bytes and
// not written down yet.
type restoredChunks struct {
	told bool // in the batch is that chunks of blobs come later in the snapshot

	name  BlobName // whose chunks come just now
	skip  bool     // they are here already
	now   *arrival // where they go; nil: into the database, or nowhere
	whole []*arrival
	bytes int64 // written since the last flush, of which there is one for each segment
}

// putHere notes that the chunks of a blob come later in the snapshot, unless they are
// here.
func (s *restore) putHere(key, value []byte) error {
	if !bytes.Equal(value, []byte{hereWhole}) {
		return errors.New("the snapshot has a blob that is not whole")
	}
	here, err := s.db.Get(key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if isWhole(here) {
		return nil
	}
	s.logged.told = true
	s.batch.Set(key, []byte{hereRestoring})
	return s.flushFull()
}

// putLogged puts a chunk into the log of bytes. It returns false for a chunk that came in
// an entry.
func (s *restore) putLogged(name BlobName, key, stored []byte) (put bool, err error) {
	l := &s.logged
	if name != l.name {
		if err := s.beginBlob(name); err != nil {
			return false, err
		}
	}
	if l.now == nil {
		return l.skip, nil
	}
	if len(stored) > maxStoredChunk {
		return false, errors.New("the snapshot has a chunk that is too large")
	}
	if want := AppendBlobChunkKey(nil, s.shard, name.App, name.ID, l.now.chunks()); !bytes.Equal(key, want) {
		return false, errors.New("the snapshot's chunks are out of order")
	}
	if err := l.now.put(stored); err != nil {
		return false, err
	}
	if l.bytes += int64(len(stored) + chunkOverhead); l.bytes < s.db.segmentBytes {
		return true, nil
	}
	return true, s.flush()
}

func (s *restore) beginBlob(name BlobName) error {
	l := &s.logged
	l.endBlob()
	if l.told {
		l.told = false
		if err := s.flush(); err != nil {
			return err
		}
	}
	here := appendBlobHereKey(nil, s.shard, name.App, name.ID)
	state, err := s.db.Get(here)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	l.name, l.skip = name, isWhole(state)
	if len(state) > 0 && !l.skip {
		l.now = s.db.arrive(here)
	}
	return nil
}

func (l *restoredChunks) endBlob() {
	if l.now != nil {
		l.whole = append(l.whole, l.now)
		l.now = nil
	}
}

func (l *restoredChunks) sync() error {
	for _, a := range l.whole {
		if err := a.sync(); err != nil {
			return err
		}
	}
	return nil
}

// written is for when the blobs that are whole are written down.
func (l *restoredChunks) written() {
	for _, a := range l.whole {
		a.end()
	}
	l.whole, l.bytes = l.whole[:0], 0
}

// end gives up what is not written down.
func (l *restoredChunks) end() {
	l.endBlob()
	l.written()
}

// endLogged writes down the last blobs, and which ones have no chunks.
func (s *restore) endLogged() error {
	s.logged.endBlob()
	if err := s.flush(); err != nil {
		return err
	}
	return s.eachRestoring(func(key []byte) error {
		name, err := blobOf(key, tableBlobHere)
		if err != nil {
			return err
		}
		record, err := s.db.Get(AppendBlobKey(nil, s.shard, name.App, name.ID))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		s.batch.Set(key, []byte{hereWhole})
		if blob, err := DecodeBlob(record); err == nil && blob.Chunks > 0 {
			s.batch.Delete(key) // the other replica has lost its chunks
		}
		return s.flushFull()
	})
}

// eachRestoring calls fn for the blobs that this restore, or one that was cut short,
// expected chunks of.
func (s *restore) eachRestoring(fn func(key []byte) error) error {
	var fault error
	lower, upper := Bounds(appendTable(nil, s.shard, tableBlobHere))
	err := s.db.Scan(lower, upper, func(key, value []byte) bool {
		if bytes.Equal(value, []byte{hereRestoring}) {
			fault = fn(key)
		}
		return fault == nil
	})
	return errors.Join(err, fault)
}
