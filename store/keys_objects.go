package store

import "github.com/pheromone-run/pheromone/spec"

// ObjectKey is what the key of a stored object says. Session is empty for a
// key-value object.
type ObjectKey struct {
	App     spec.AppName
	Bucket  spec.BucketName
	Session spec.SessionID
	Key     spec.Key
}

// AppendKVKey appends the key of a key-value object.
func AppendKVKey(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, key spec.Key) []byte {
	return appendPart(AppendKVPrefix(dst, shard, app, bucket, ""), key)
}

// AppendKVPrefix appends the prefix of a bucket's key-value objects whose keys
// begin with keyPrefix.
func AppendKVPrefix(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, keyPrefix string) []byte {
	dst = append(AppendBucketPrefix(dst, shard, app, bucket), objectKV)
	return appendPartPrefix(dst, keyPrefix)
}

// AppendSessionObjectKey appends the key of an object of a session.
func AppendSessionObjectKey(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, session spec.SessionID, key spec.Key) []byte {
	return appendPart(AppendSessionObjectsPrefix(dst, shard, app, bucket, session, ""), key)
}

// AppendSessionObjectsPrefix appends the prefix of a session's objects in a
// bucket whose keys begin with keyPrefix.
func AppendSessionObjectsPrefix(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, session spec.SessionID, keyPrefix string) []byte {
	dst = append(AppendBucketPrefix(dst, shard, app, bucket), objectSession)
	return appendPartPrefix(appendPart(dst, session), keyPrefix)
}

// AppendBucketPrefix appends the prefix of all objects of a bucket: the
// key-value objects, then those of sessions.
func AppendBucketPrefix(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName) []byte {
	return appendPart(appendApp(dst, shard, tableObjects, app), bucket)
}

// DecodeObjectKey takes the key of an object apart.
func DecodeObjectKey(key []byte) (ObjectKey, error) {
	_, r := openKey(key, tableObjects)
	k := ObjectKey{App: spec.AppName(r.part()), Bucket: spec.BucketName(r.part())}
	switch r.byte() {
	case objectKV:
	case objectSession:
		k.Session = spec.SessionID(r.part())
	default:
		r.fail("neither a key-value object nor one of a session")
	}
	k.Key = spec.Key(r.part())
	return k, r.done()
}

// AppendHeldKey appends the key of an object that a trigger of scope bucket
// holds until it fires.
func AppendHeldKey(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, trigger spec.TriggerName, position uint64) []byte {
	return appendUint64(AppendHeldPrefix(dst, shard, app, bucket, trigger), position)
}

// AppendHeldPrefix appends the prefix of all objects that a trigger holds.
func AppendHeldPrefix(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, trigger spec.TriggerName) []byte {
	return appendPart(appendPart(appendApp(dst, shard, tableHeld, app), bucket), trigger)
}

// HeldKey is what the key of a held object says.
type HeldKey struct {
	App      spec.AppName
	Bucket   spec.BucketName
	Trigger  spec.TriggerName
	Position uint64
}

// DecodeHeldKey takes the key of a held object apart.
func DecodeHeldKey(key []byte) (HeldKey, error) {
	_, r := openKey(key, tableHeld)
	k := HeldKey{App: spec.AppName(r.part()), Bucket: spec.BucketName(r.part()), Trigger: spec.TriggerName(r.part()), Position: r.uint64()}
	return k, r.done()
}

// AppendHeldInputKey appends the key of an object that a firing of scope bucket
// has moved to the invocation it made.
func AppendHeldInputKey(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID, number, position uint64) []byte {
	return appendUint64(appendUint64(appendSession(dst, shard, tableHeldInput, app, session), number), position)
}

// HeldInputKey is what the key of a held input says.
type HeldInputKey struct {
	App      spec.AppName
	Session  spec.SessionID
	Number   uint64 // of the invocation
	Position uint64
}

// DecodeHeldInputKey takes the key of a held input apart.
func DecodeHeldInputKey(key []byte) (HeldInputKey, error) {
	_, r := openKey(key, tableHeldInput)
	k := HeldInputKey{App: spec.AppName(r.part()), Session: spec.SessionID(r.part()), Number: r.uint64(), Position: r.uint64()}
	return k, r.done()
}

// AppendBlobKey appends the key of the record of a blob that an entry has adopted
// (AppendBlob). It is there as long as anything refers to the blob. Blobs whose
// chunks came in an entry have none.
func AppendBlobKey(dst []byte, shard spec.ShardID, app spec.AppName, id [16]byte) []byte {
	return append(appendApp(dst, shard, tableBlob, app), id[:]...)
}

// appendBlobHereKey appends the key that says that chunks of a blob came to this
// replica outside of the raft log, whether all of them have, and where they are.
func appendBlobHereKey(dst []byte, shard spec.ShardID, app spec.AppName, id [16]byte) []byte {
	return append(appendApp(dst, shard, tableBlobHere, app), id[:]...)
}

// AppendStagedKey appends the key of the mark that a blob has until an entry
// refers to it.
func AppendStagedKey(dst []byte, shard spec.ShardID, app spec.AppName, id [16]byte) []byte {
	return append(appendApp(dst, shard, tableStaged, app), id[:]...)
}

// AppendBlobRefsKey appends the key of a blob's reference count (AppendCount). A
// blob without that key has one reference.
func AppendBlobRefsKey(dst []byte, shard spec.ShardID, app spec.AppName, id [16]byte) []byte {
	return append(appendApp(dst, shard, tableBlobRefs, app), id[:]...)
}

// AppendBlobChunkKey appends the key of a chunk of a blob.
func AppendBlobChunkKey(dst []byte, shard spec.ShardID, app spec.AppName, id [16]byte, chunk uint32) []byte {
	dst = appendBlobPrefix(dst, shard, app, id)
	return append(dst, byte(chunk>>24), byte(chunk>>16), byte(chunk>>8), byte(chunk))
}

// appendBlobPrefix appends the prefix of all chunks of a blob.
func appendBlobPrefix(dst []byte, shard spec.ShardID, app spec.AppName, id [16]byte) []byte {
	return append(appendApp(dst, shard, tableBlobChunk, app), id[:]...)
}

// BlobName names a blob of a shard, as its keys do.
type BlobName struct {
	App spec.AppName
	ID  [16]byte
}

// blobOf returns the blob in a key of one of the tables of blobs.
func blobOf(key []byte, t table) (BlobName, error) {
	_, r := openKey(key, t)
	name := BlobName{spec.AppName(r.part()), r.id()}
	if t == tableBlobChunk {
		r.uint32()
	}
	return name, r.done()
}
