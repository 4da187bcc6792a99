package store

import "github.com/pheromone-run/pheromone/spec"

func appendSession(dst []byte, shard spec.ShardID, t table, app spec.AppName, session spec.SessionID) []byte {
	return appendPart(appendApp(dst, shard, t, app), session)
}

// AppendSessionKey appends the key of a session's record.
func AppendSessionKey(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tableSession, app, session)
}

// DecodeSessionKey takes the key of a session apart.
func DecodeSessionKey(key []byte) (spec.AppName, spec.SessionID, error) {
	_, r := openKey(key, tableSession)
	app, session := spec.AppName(r.part()), spec.SessionID(r.part())
	return app, session, r.done()
}

// AppendSessionIndexKey appends the key under which a session is found by age;
// its value is empty.
func AppendSessionIndexKey(dst []byte, shard spec.ShardID, app spec.AppName, created Micros, session spec.SessionID) []byte {
	return appendPart(appendMicros(AppendSessionIndexPrefix(dst, shard, app), created), session)
}

// AppendSessionIndexPrefix appends the prefix of an app's sessions, oldest first.
func AppendSessionIndexPrefix(dst []byte, shard spec.ShardID, app spec.AppName) []byte {
	return appendApp(dst, shard, tableSessionIndex, app)
}

// DecodeSessionIndexKey takes a key of the sessions by age apart.
func DecodeSessionIndexKey(key []byte) (app spec.AppName, created Micros, session spec.SessionID, err error) {
	_, r := openKey(key, tableSessionIndex)
	app, created, session = spec.AppName(r.part()), r.micros(), spec.SessionID(r.part())
	return app, created, session, r.done()
}

// AppendChildKey appends the key of what a session keeps of a child session.
func AppendChildKey(dst []byte, shard spec.ShardID, app spec.AppName, session, child spec.SessionID) []byte {
	return appendPart(AppendChildrenPrefix(dst, shard, app, session), child)
}

// AppendChildrenPrefix appends the prefix of all child sessions of a session.
func AppendChildrenPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tableChild, app, session)
}

// DecodeChildKey takes the key of a child session apart.
func DecodeChildKey(key []byte) (app spec.AppName, session, child spec.SessionID, err error) {
	_, r := openKey(key, tableChild)
	app, session, child = spec.AppName(r.part()), spec.SessionID(r.part()), spec.SessionID(r.part())
	return app, session, child, r.done()
}

// TriggerKey names a trigger's machine: Session is "" for scope bucket.
type TriggerKey struct {
	App     spec.AppName
	Session spec.SessionID
	Bucket  spec.BucketName
	Trigger spec.TriggerName
}

// AppendTriggerStateKey appends the key of a trigger's state; session is "" for
// scope bucket.
func AppendTriggerStateKey(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID, bucket spec.BucketName, trigger spec.TriggerName) []byte {
	return appendPart(appendPart(appendSession(dst, shard, tableTriggerState, app, session), bucket), trigger)
}

// AppendTriggerStatesPrefix appends the prefix of all trigger states of a
// session, or of all of scope bucket if session is "".
func AppendTriggerStatesPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tableTriggerState, app, session)
}

// DecodeTriggerStateKey takes the key of a trigger's state apart.
func DecodeTriggerStateKey(key []byte) (TriggerKey, error) {
	_, r := openKey(key, tableTriggerState)
	k := r.trigger()
	return k, r.done()
}

// AppendTriggerItemKey appends the key of an object that a trigger's machine keeps.
func AppendTriggerItemKey(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID, bucket spec.BucketName, trigger spec.TriggerName, position uint64) []byte {
	return appendUint64(AppendTriggerItemsPrefix(dst, shard, app, session, bucket, trigger), position)
}

// AppendTriggerItemsPrefix appends the prefix of all items of a trigger's
// machine, in order of position.
func AppendTriggerItemsPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID, bucket spec.BucketName, trigger spec.TriggerName) []byte {
	return appendPart(appendPart(appendSession(dst, shard, tableTriggerItem, app, session), bucket), trigger)
}

// DecodeTriggerItemKey takes the key of an item apart.
func DecodeTriggerItemKey(key []byte) (TriggerKey, uint64, error) {
	_, r := openKey(key, tableTriggerItem)
	k, position := r.trigger(), r.uint64()
	return k, position, r.done()
}

// AppendTriggerSetKey appends the key of a set that waits among the items of a
// trigger of scope bucket.
func AppendTriggerSetKey(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, trigger spec.TriggerName, position uint64) []byte {
	return appendUint64(AppendTriggerSetsPrefix(dst, shard, app, bucket, trigger), position)
}

// AppendTriggerSetsPrefix appends the prefix of all sets that wait for a trigger,
// in order of position.
func AppendTriggerSetsPrefix(dst []byte, shard spec.ShardID, app spec.AppName, bucket spec.BucketName, trigger spec.TriggerName) []byte {
	return appendPart(appendPart(appendSession(dst, shard, tableTriggerSet, app, ""), bucket), trigger)
}

// DecodeTriggerSetKey takes the key of a set apart.
func DecodeTriggerSetKey(key []byte) (TriggerKey, uint64, error) {
	_, r := openKey(key, tableTriggerSet)
	k, position := r.trigger(), r.uint64()
	return k, position, r.done()
}

func (r *keyReader) trigger() TriggerKey {
	return TriggerKey{App: spec.AppName(r.part()), Session: spec.SessionID(r.part()), Bucket: spec.BucketName(r.part()), Trigger: spec.TriggerName(r.part())}
}

// AppendPendingKey appends the key of an invocation that has not ended.
func AppendPendingKey(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID, number uint64) []byte {
	return appendUint64(appendSession(dst, shard, tablePending, app, session), number)
}

// AppendPendingPrefix appends the prefix of a session's invocations that have not ended.
func AppendPendingPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tablePending, app, session)
}

// AppendAllPendingPrefix appends the prefix of all pending invocations of a
// shard, by app and session: what a new leader dispatches again.
func AppendAllPendingPrefix(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tablePending)
}

// DecodePendingKey takes the key of a pending invocation apart.
func DecodePendingKey(key []byte) (spec.AppName, spec.InvocationID, error) {
	return decodeInvocationKey(key, tablePending)
}

// AppendHistoryKey appends the key of an invocation that has ended.
func AppendHistoryKey(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID, number uint64) []byte {
	return appendUint64(appendSession(dst, shard, tableHistory, app, session), number)
}

// AppendHistoryPrefix appends the prefix of a session's ended invocations.
func AppendHistoryPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tableHistory, app, session)
}

// DecodeHistoryKey takes the key of an ended invocation apart.
func DecodeHistoryKey(key []byte) (spec.AppName, spec.InvocationID, error) {
	return decodeInvocationKey(key, tableHistory)
}

func decodeInvocationKey(key []byte, t table) (spec.AppName, spec.InvocationID, error) {
	_, r := openKey(key, t)
	app := spec.AppName(r.part())
	id := spec.InvocationID{Session: spec.SessionID(r.part()), Number: r.uint64()}
	return app, id, r.done()
}

// AppendIncarnationsPrefix appends the prefix of the incarnations of a shard's apps.
func AppendIncarnationsPrefix(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableIncarnation)
}

// AppendIncarnationKey appends the key under which a shard keeps the incarnation of
// an app that its data are of; there is none for the first one.
func AppendIncarnationKey(dst []byte, shard spec.ShardID, app spec.AppName) []byte {
	return appendApp(dst, shard, tableIncarnation, app)
}

// DecodeIncarnationKey takes the key of an app's incarnation apart.
func DecodeIncarnationKey(key []byte) (spec.AppName, error) {
	_, r := openKey(key, tableIncarnation)
	app := spec.AppName(r.part())
	return app, r.done()
}

// AppendRequestKey appends the key of a request with an idempotency key.
func AppendRequestKey(dst []byte, shard spec.ShardID, app spec.AppName, idempotency string) []byte {
	return appendPart(appendApp(dst, shard, tableRequest, app), idempotency)
}
