package store

import (
	"errors"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Mark is what the mark of a staged blob says: who staged it, and since when it is
// on this replica. Marks of earlier versions say nothing; those are of this node.
type Mark struct {
	Node string
	Time Micros
}

func appendMark(dst []byte, m *Mark) []byte {
	return appendInt(appendString(append(dst, recordVersion), m.Node), m.Time)
}

func decodeMark(src []byte) (Mark, error) {
	if len(src) == 0 {
		return Mark{}, nil
	}
	r := openRecord(src)
	m := Mark{Node: r.string(), Time: r.micros()}
	return m, r.done("mark of a staged blob")
}

// StagedBlob is a blob that was staged and that no entry has adopted.
type StagedBlob struct {
	BlobName
	Mark
}

// own tells whether it was staged on this node.
func (db *DB) own(m Mark) bool { return m.Node == "" || m.Node == db.identity.Node }

// SweepStaged removes the blobs of shard that this node has staged and nobody
// refers to, apart from those that this process has not released. A new leader
// calls it once its claim is applied: whatever an earlier leader proposed is
// decided by then. Copies of what other nodes have staged stay: those may be about
// to lead again, and to propose an entry that refers to them.
func (db *DB) SweepStaged(shard spec.ShardID) error {
	staged, err := db.Staged(shard)
	if err != nil {
		return err
	}
	return db.DropStaged(shard, slices.DeleteFunc(staged, func(s StagedBlob) bool { return !db.own(s.Mark) }))
}

// Staged lists the blobs of shard that are marked as staged.
func (db *DB) Staged(shard spec.ShardID) ([]StagedBlob, error) {
	var staged []StagedBlob
	err := scanStaged(db, shard, func(s StagedBlob) { staged = append(staged, s) })
	return staged, err
}

// StagedBefore lists the marks that are older than a time. Their blobs may be
// removed (DropStaged) once it is known that no entry comes that refers to them.
func (db *DB) StagedBefore(shard spec.ShardID, t time.Time) ([]StagedBlob, error) {
	staged, err := db.Staged(shard)
	return slices.DeleteFunc(staged, func(s StagedBlob) bool {
		return s.Time >= Micros(t.UnixMicro()) || db.staging.has(s.ID)
	}), err
}

// StagedHere tells which of some blobs are undecided on this node: they are marked
// as staged, or at work.
func (db *DB) StagedHere(shard spec.ShardID, names []BlobName) ([]BlobName, error) {
	var here []BlobName
	for _, name := range names {
		marked, err := db.Has(AppendStagedKey(nil, shard, name.App, name.ID))
		if err != nil {
			return nil, err
		}
		if marked || db.staging.has(name.ID) {
			here = append(here, name)
		}
	}
	return here, nil
}

// DropStaged removes staged blobs that no entry will ever refer to: copies that are
// still coming in when they are there, and none that this process has staged and not
// released. Of one that an entry has adopted only the mark goes: its chunks came
// when the entry had been applied.
func (db *DB) DropStaged(shard spec.ShardID, staged []StagedBlob) error {
	if len(staged) == 0 {
		return db.Err()
	}
	db.blobs.Lock()
	defer db.blobs.Unlock()
	var b Batch
	for _, s := range staged {
		if db.staging.has(s.ID) {
			db.staging.doom(s.ID)
			continue
		}
		key := AppendStagedKey(nil, shard, s.App, s.ID)
		marked, err := db.Has(key)
		if err != nil {
			return err
		}
		adopted, err := db.Has(AppendBlobKey(nil, shard, s.App, s.ID))
		switch {
		case err != nil:
			return err
		case !marked: // decided meanwhile
		case adopted:
			b.Delete(key)
		default:
			dropChunks(&b, shard, s.BlobName)
		}
	}
	return db.Commit(&b, false)
}

// loosePage is how many blobs SweepLoose looks at with the lock held.
const loosePage = 1000

// SweepLoose removes chunks that belong to nothing: what a transfer to this
// replica has left that a crash has cut short, or an entry has overtaken.
func (db *DB) SweepLoose(shard spec.ShardID) error {
	lower, upper := Bounds(appendTable(nil, shard, tableBlobHere))
	for lower != nil {
		next, err := db.sweepLoosePage(shard, lower, upper)
		if err != nil {
			return err
		}
		lower = next
	}
	return nil
}

func (db *DB) sweepLoosePage(shard spec.ShardID, lower, upper []byte) (next []byte, err error) {
	db.blobs.Lock()
	defer db.blobs.Unlock()
	names, next, err := namesIn(db, tableBlobHere, lower, upper, loosePage)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	first, last := names[0], names[len(names)-1]
	owned := make(map[BlobName]bool, len(names))
	for _, t := range [...]table{tableBlob, tableStaged} {
		from := append(appendApp(nil, shard, t, first.App), first.ID[:]...)
		to := append(append(appendApp(nil, shard, t, last.App), last.ID[:]...), 0)
		there, _, err := namesIn(db, t, from, to, 0)
		if err != nil {
			return nil, err
		}
		for _, name := range there {
			owned[name] = true
		}
	}
	var b Batch
	for _, name := range names {
		if !owned[name] && !db.staging.has(name.ID) {
			dropChunks(&b, shard, name)
		}
	}
	return next, db.Commit(&b, false)
}

// namesIn lists the blobs of a table's keys in [lower, upper), up to limit of them
// unless that is 0, and returns where those go on that are left.
func namesIn(r Reader, t table, lower, upper []byte, limit int) (names []BlobName, next []byte, err error) {
	var fault error
	err = r.Scan(lower, upper, func(key, _ []byte) bool {
		if limit > 0 && len(names) == limit {
			next = append([]byte(nil), key...)
			return false
		}
		var name BlobName
		name, fault = blobOf(key, t)
		names = append(names, name)
		return fault == nil
	})
	return names, next, errors.Join(err, fault)
}

func scanStaged(r Reader, shard spec.ShardID, fn func(StagedBlob)) error {
	lower, upper := Bounds(appendTable(nil, shard, tableStaged))
	var fault error
	err := r.Scan(lower, upper, func(key, value []byte) bool {
		name, err := blobOf(key, tableStaged)
		if err != nil {
			fault = err
			return false
		}
		m, err := decodeMark(value)
		if err != nil {
			fault = err
			return false
		}
		fn(StagedBlob{name, m})
		return true
	})
	return errors.Join(err, fault)
}
