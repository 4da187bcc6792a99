package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

const million = 1_000_000

// primitives has the state machine of each primitive count a million objects, and
// tells what it takes: time, memory that is held while they wait, and bytes in the
// store.
func primitives(_ context.Context, _ options, r *recorder, _ string) error {
	keys := make([]spec.Key, million)
	for i := range keys {
		keys[i] = spec.Key(fmt.Sprintf("group-%d:key-%d", i%100, i))
	}
	bucket := spec.ScopeBucket
	for _, c := range []struct {
		name    string
		trigger spec.Trigger
		names   bool // the set is named before its objects come
	}{
		{"immediate", spec.Trigger{Primitive: spec.Immediate}, false},
		{"by_name", spec.Trigger{Primitive: spec.ByName, Match: "group-*:key-1*"}, false},
		{"by_set", spec.Trigger{Primitive: spec.BySet, Keys: append([]spec.Key{"never"}, keys...)}, false},
		{"by_batch_size", spec.Trigger{Primitive: spec.ByBatchSize, Scope: bucket, Count: 2 * million, MaxWait: time.Hour}, false},
		{"by_time", spec.Trigger{Primitive: spec.ByTime, Every: time.Hour, Slide: time.Hour, Scope: bucket}, false},
		{"redundant", spec.Trigger{Primitive: spec.Redundant, K: 2 * million, N: 3 * million}, false},
		{"dynamic_join", spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession}, true},
		{"dynamic_group", spec.Trigger{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: []spec.Key{"never"}}}, false},
	} {
		c.trigger.Name = "t"
		if err := primitive(r, c.name, &c.trigger, keys, c.names); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func primitive(r *recorder, name string, trigger *spec.Trigger, keys []spec.Key, names bool) error {
	before := liveHeap()
	m, err := triggers.New(trigger)
	if err != nil {
		return err
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if names {
		m.Step(triggers.Event{Kind: triggers.SetNamed, Now: now, Keys: append([]spec.Key{"never"}, keys...)})
	}
	session := spec.NewSessionID(0, now)
	if trigger.Scope == spec.ScopeBucket {
		session = ""
	}
	var stored, kept int
	began := time.Now()
	for i, k := range keys {
		key := spec.Key(strings.Clone(string(k))) // as from the network: its bytes are held, too
		out := m.Step(triggers.Event{Kind: triggers.ObjectArrived, Now: now, Object: triggers.Object{Position: uint64(i + 1), Key: key}})
		for _, it := range out.Keep {
			kept++
			stored += len(store.AppendTriggerItemKey(nil, 1, "app", session, "in", "t", it.Position))
			stored += len(store.AppendItem(nil, &store.Item{Key: it.Key, Group: it.Group, Time: store.Micros(it.Time.UnixMicro())}))
		}
	}
	took := time.Since(began)
	header := len(m.Header(nil))
	held := float64(liveHeap()) - float64(before)
	runtime.KeepAlive(m)
	for _, f := range []figure{
		{What: name + ", 1,000,000 objects counted", Value: float64(took.Milliseconds()), Unit: "ms"},
		{What: "… held in memory", Value: max(0, held) / (1 << 20), Unit: "MiB"},
		{What: "… in the store, an object that waits", N: kept, Value: float64(stored) / float64(max(kept, 1)), Unit: "bytes"},
		{What: "… in the store, the trigger", Value: float64(header), Unit: "bytes"},
	} {
		f.Workload = "P"
		r.add(f)
	}
	return nil
}

// liveHeap is what the heap holds once it is collected.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
