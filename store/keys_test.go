package store_test

import (
	"bytes"
	"cmp"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// parts draws strings that are likely to collide if parts ran together: short,
// and full of zero bytes and of the bytes that escape them.
func parts[S ~string](name string) func(*rapid.T) S {
	gen := rapid.OneOf(
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 'b', 0xfe, 0xff}), 0, 5), func(b []byte) string { return string(b) }),
		rapid.StringN(0, 20, -1),
	)
	return func(t *rapid.T) S { return S(gen.Draw(t, name)) }
}

var (
	anApp    = parts[spec.AppName]("app")
	aBucket  = parts[spec.BucketName]("bucket")
	aTrigger = parts[spec.TriggerName]("trigger")
	aSession = parts[spec.SessionID]("session")
	aKey     = parts[spec.Key]("key")
	aText    = parts[string]("text")
	aShard   = func(t *rapid.T) spec.ShardID { return spec.ShardID(rapid.Uint32Range(0, 3).Draw(t, "shard")) }
	aNumber  = func(t *rapid.T) uint64 {
		return rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64()).Draw(t, "number")
	}
	aTime   = func(t *rapid.T) store.Micros { return store.Micros(rapid.Int64().Draw(t, "time")) }
	aBlobID = func(t *rapid.T) (id [16]byte) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		return id
	}
	aChunk    = func(t *rapid.T) uint32 { return rapid.Uint32().Draw(t, "chunk") }
	timerKind = func(t *rapid.T) store.TimerKind {
		return store.TimerKind(rapid.Byte().Draw(t, "kind"))
	}
)

// layout is one kind of key: how a tuple of parts is drawn, encoded, and read
// back where it can be.
type layout struct {
	name   string
	draw   func(*rapid.T) []any
	encode func(p []any) []byte
	decode func(key []byte) ([]any, error) // without the shard
}

func layouts() []layout {
	return []layout{
		{"counters", func(t *rapid.T) []any { return []any{aShard(t)} },
			func(p []any) []byte { return store.AppendCountersKey(nil, p[0].(spec.ShardID)) }, nil},
		{"deployed", func(t *rapid.T) []any { return []any{aShard(t)} },
			func(p []any) []byte { return store.AppendDeployedKey(nil, p[0].(spec.ShardID)) }, nil},
		{"key-value object", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aBucket(t), aKey(t)} },
			func(p []any) []byte {
				return store.AppendKVKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.BucketName), p[3].(spec.Key))
			},
			func(key []byte) ([]any, error) {
				k, err := store.DecodeObjectKey(key)
				return []any{k.App, k.Bucket, k.Key}, err
			}},
		{"session object", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aBucket(t), aSession(t), aKey(t)} },
			func(p []any) []byte {
				return store.AppendSessionObjectKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.BucketName), p[3].(spec.SessionID), p[4].(spec.Key))
			},
			func(key []byte) ([]any, error) {
				k, err := store.DecodeObjectKey(key)
				return []any{k.App, k.Bucket, k.Session, k.Key}, err
			}},
		{"held", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aBucket(t), aTrigger(t), aNumber(t)} },
			func(p []any) []byte {
				return store.AppendHeldKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.BucketName), p[3].(spec.TriggerName), p[4].(uint64))
			},
			func(key []byte) ([]any, error) {
				k, err := store.DecodeHeldKey(key)
				return []any{k.App, k.Bucket, k.Trigger, k.Position}, err
			}},
		{"held input", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aSession(t), aNumber(t), aNumber(t)} },
			func(p []any) []byte {
				return store.AppendHeldInputKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.SessionID), p[3].(uint64), p[4].(uint64))
			},
			func(key []byte) ([]any, error) {
				k, err := store.DecodeHeldInputKey(key)
				return []any{k.App, k.Session, k.Number, k.Position}, err
			}},
		{"session", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aSession(t)} },
			func(p []any) []byte {
				return store.AppendSessionKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.SessionID))
			},
			func(key []byte) ([]any, error) {
				app, session, err := store.DecodeSessionKey(key)
				return []any{app, session}, err
			}},
		{"session by age", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aTime(t), aSession(t)} },
			func(p []any) []byte {
				return store.AppendSessionIndexKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(store.Micros), p[3].(spec.SessionID))
			},
			func(key []byte) ([]any, error) {
				app, created, session, err := store.DecodeSessionIndexKey(key)
				return []any{app, created, session}, err
			}},
		{"trigger state", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aSession(t), aBucket(t), aTrigger(t)} },
			func(p []any) []byte {
				return store.AppendTriggerStateKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.SessionID), p[3].(spec.BucketName), p[4].(spec.TriggerName))
			},
			func(key []byte) ([]any, error) {
				k, err := store.DecodeTriggerStateKey(key)
				return []any{k.App, k.Session, k.Bucket, k.Trigger}, err
			}},
		{"trigger item", func(t *rapid.T) []any {
			return []any{aShard(t), anApp(t), aSession(t), aBucket(t), aTrigger(t), aNumber(t)}
		},
			func(p []any) []byte {
				return store.AppendTriggerItemKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.SessionID), p[3].(spec.BucketName), p[4].(spec.TriggerName), p[5].(uint64))
			},
			func(key []byte) ([]any, error) {
				k, position, err := store.DecodeTriggerItemKey(key)
				return []any{k.App, k.Session, k.Bucket, k.Trigger, position}, err
			}},
		{"pending", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aSession(t), aNumber(t)} },
			func(p []any) []byte {
				return store.AppendPendingKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.SessionID), p[3].(uint64))
			},
			func(key []byte) ([]any, error) {
				app, id, err := store.DecodePendingKey(key)
				return []any{app, id.Session, id.Number}, err
			}},
		{"history", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aSession(t), aNumber(t)} },
			func(p []any) []byte {
				return store.AppendHistoryKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(spec.SessionID), p[3].(uint64))
			},
			func(key []byte) ([]any, error) {
				app, id, err := store.DecodeHistoryKey(key)
				return []any{app, id.Session, id.Number}, err
			}},
		{"timer", func(t *rapid.T) []any {
			return []any{aShard(t), aTime(t), timerKind(t), anApp(t), aSession(t), aBucket(t), aTrigger(t), aKey(t), aNumber(t)}
		},
			func(p []any) []byte {
				return store.AppendTimerKey(nil, p[0].(spec.ShardID), p[1].(store.Micros), &store.Timer{
					Kind: p[2].(store.TimerKind), App: p[3].(spec.AppName), Session: p[4].(spec.SessionID), Bucket: p[5].(spec.BucketName),
					Trigger: p[6].(spec.TriggerName), Key: p[7].(spec.Key), Number: p[8].(uint64),
				})
			},
			func(key []byte) ([]any, error) {
				deadline, k, err := store.DecodeTimer(key)
				return []any{deadline, k.Kind, k.App, k.Session, k.Bucket, k.Trigger, k.Key, k.Number}, err
			}},
		{"outbox", func(t *rapid.T) []any { return []any{aShard(t), aNumber(t)} },
			func(p []any) []byte { return store.AppendOutboxKey(nil, p[0].(spec.ShardID), p[1].(uint64)) },
			func(key []byte) ([]any, error) { n, err := store.DecodeOutboxKey(key); return []any{n}, err }},
		{"inbox", func(t *rapid.T) []any { return []any{aShard(t), aShard(t)} },
			func(p []any) []byte { return store.AppendInboxKey(nil, p[0].(spec.ShardID), p[1].(spec.ShardID)) },
			func(key []byte) ([]any, error) { n, err := store.DecodeInboxKey(key); return []any{n}, err }},
		{"event", func(t *rapid.T) []any { return []any{aShard(t), spec.Revision(aNumber(t))} },
			func(p []any) []byte { return store.AppendEventKey(nil, p[0].(spec.ShardID), p[1].(spec.Revision)) },
			func(key []byte) ([]any, error) { n, err := store.DecodeEventKey(key); return []any{n}, err }},
		{"request", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aText(t)} },
			func(p []any) []byte {
				return store.AppendRequestKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].(string))
			}, nil},
		{"staged", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aBlobID(t)} },
			func(p []any) []byte {
				return store.AppendStagedKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].([16]byte))
			}, nil},
		{"blob chunk", func(t *rapid.T) []any { return []any{aShard(t), anApp(t), aBlobID(t), aChunk(t)} },
			func(p []any) []byte {
				return store.AppendBlobChunkKey(nil, p[0].(spec.ShardID), p[1].(spec.AppName), p[2].([16]byte), p[3].(uint32))
			}, nil},
	}
}

func TestKeysOrderAsTheirPartsDoAndReadBack(t *testing.T) {
	for _, l := range layouts() {
		t.Run(l.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				a := l.draw(t)
				b := slices.Clone(a)
				// Share a part list up to some point, so that later parts decide too.
				other, from := l.draw(t), rapid.IntRange(0, len(a)).Draw(t, "from")
				copy(b[from:], other[from:])
				ka, kb := l.encode(a), l.encode(b)
				if got, want := bytes.Compare(ka, kb), compareTuples(a, b); got != want {
					t.Fatalf("keys compare as %d, their parts as %d:\n%q %x\n%q %x", got, want, a, ka, b, kb)
				}
				if l.decode == nil {
					return
				}
				back, err := l.decode(ka)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(back, a[1:]) {
					t.Fatalf("%q came back as %q", a[1:], back)
				}
				if _, err := l.decode(ka[:rapid.IntRange(0, len(ka)-1).Draw(t, "cut")]); err == nil {
					t.Fatal("a key that is cut short was read")
				}
				if _, err := l.decode(append(ka, 7)); err == nil {
					t.Fatal("a key with a byte too many was read")
				}
			})
		})
	}
}

func TestKeysOfDifferentTablesNeverCollide(t *testing.T) {
	all := layouts()
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(all)-1).Draw(t, "i")
		j := rapid.IntRange(0, len(all)-1).Draw(t, "j")
		a, b := all[i].encode(all[i].draw(t)), all[j].encode(all[j].draw(t))
		if i != j && (bytes.HasPrefix(a, b) || bytes.HasPrefix(b, a)) {
			t.Fatalf("a key of %s is a prefix of one of %s", all[i].name, all[j].name)
		}
	})
}

func compareTuples(a, b []any) int {
	for i := range a {
		if c := compareParts(reflect.ValueOf(a[i]), reflect.ValueOf(b[i])); c != 0 {
			return c
		}
	}
	return 0
}

func compareParts(a, b reflect.Value) int {
	switch a.Kind() {
	case reflect.String:
		return cmp.Compare(a.String(), b.String())
	case reflect.Int64:
		return cmp.Compare(a.Int(), b.Int())
	case reflect.Array:
		x, y := a.Interface().([16]byte), b.Interface().([16]byte)
		return bytes.Compare(x[:], y[:])
	}
	return cmp.Compare(a.Uint(), b.Uint())
}

func TestPrefixesHoldTheirOwnKeysOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shard, app, bucket, session, key := aShard(t), anApp(t), aBucket(t), aSession(t), aKey(t)
		otherApp, otherBucket, otherSession, otherKey := anApp(t), aBucket(t), aSession(t), aKey(t)
		kv := store.AppendKVKey(nil, shard, app, bucket, key)
		object := store.AppendSessionObjectKey(nil, shard, app, bucket, session, key)
		if bytes.Compare(kv, object) >= 0 {
			t.Fatal("a bucket's key-value objects come before its sessions' objects")
		}
		sameBucket := app == otherApp && bucket == otherBucket
		checkIn(t, "bucket", store.AppendBucketPrefix(nil, shard, otherApp, otherBucket), kv, sameBucket)
		checkIn(t, "bucket", store.AppendBucketPrefix(nil, shard, otherApp, otherBucket), object, sameBucket)
		begins := len(key) >= len(otherKey) && key[:len(otherKey)] == otherKey
		checkIn(t, "key-value", store.AppendKVPrefix(nil, shard, otherApp, otherBucket, string(otherKey)), kv, sameBucket && begins)
		checkIn(t, "session", store.AppendSessionObjectsPrefix(nil, shard, otherApp, otherBucket, otherSession, string(otherKey)), object,
			sameBucket && session == otherSession && begins)
		checkIn(t, "next shard", store.AppendShardPrefix(nil, shard+1), object, false)
	})
}

func checkIn(t *rapid.T, name string, prefix, key []byte, want bool) {
	lower, upper := store.Bounds(prefix)
	if got := bytes.Compare(key, lower) >= 0 && bytes.Compare(key, upper) < 0; got != want {
		t.Fatalf("%s: key %x in the range of prefix %x: %v, want %v", name, key, prefix, got, want)
	}
}

func TestTimersUntilBoundsTheTimersThatAreDue(t *testing.T) {
	timer := store.Timer{Kind: store.TimerPurge, App: "a", Session: "s"}
	until := store.AppendTimersUntil(nil, 1, 1000)
	if bytes.Compare(store.AppendTimerKey(nil, 1, 1000, &timer), until) >= 0 {
		t.Error("a timer due just then is not within the bound")
	}
	if bytes.Compare(store.AppendTimerKey(nil, 1, 1001, &timer), until) < 0 {
		t.Error("a timer due later is within the bound")
	}
}

func TestBoundsOfAPrefixOfHighestBytes(t *testing.T) {
	if _, upper := store.Bounds([]byte{0xff, 0xff}); upper != nil {
		t.Errorf("upper bound %x, want none", upper)
	}
	if _, upper := store.Bounds([]byte{1, 0xff}); !bytes.Equal(upper, []byte{2}) {
		t.Errorf("upper bound %x, want 02", upper)
	}
}

func TestKeysAreBuiltWithoutAllocation(t *testing.T) {
	dst := make([]byte, 0, 512)
	timer := store.Timer{Kind: store.TimerRetry, App: "wordcount", Session: "s0123", Number: 7}
	if n := testing.AllocsPerRun(100, func() {
		dst = store.AppendSessionObjectKey(dst[:0], 1, "wordcount", "words", "s0123", "a/b/c")
		dst = store.AppendTimerKey(dst[:0], 1, 12345, &timer)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzKeysFromAnywhereGiveAnErrorOrComeBackEqual(f *testing.F) {
	f.Add(store.AppendSessionObjectKey(nil, 1, "app", "bucket", "session", "k\x00ey"))
	f.Add(store.AppendTimerKey(nil, 1, 99, &store.Timer{Kind: store.TimerPurge, App: "a"}))
	f.Add(store.AppendTriggerItemKey(nil, 1, "a", "", "b", "t", 4))
	f.Add([]byte{0, 0, 0, 1, 0x10, 0, 2})
	all := layouts()
	f.Fuzz(func(t *testing.T, key []byte) {
		for _, l := range all {
			if l.decode == nil {
				continue
			}
			p, err := l.decode(key)
			if err != nil || l.name == "key-value object" || l.name == "session object" {
				continue
			}
			var shard spec.ShardID
			for _, b := range key[:4] {
				shard = shard<<8 | spec.ShardID(b)
			}
			if shard > store.MaxShard {
				continue
			}
			if again := l.encode(append([]any{shard}, p...)); !bytes.Equal(again, key) {
				t.Fatalf("%s: %x was read as %q, which is %x", l.name, key, p, again)
			}
		}
	})
}
