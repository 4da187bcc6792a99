package triggers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

const million = 1_000_000

var millionKeys = func() []spec.Key {
	keys := make([]spec.Key, million)
	for i := range keys {
		keys[i] = spec.Key(fmt.Sprintf("group-%d:key-%d", i%100, i))
	}
	return keys
}()

// benchTriggers keep all of a million objects, but for the first two and the last.
var benchTriggers = []struct {
	name    string
	trigger spec.Trigger
}{
	{"immediate", spec.Trigger{Primitive: spec.Immediate}},
	{"by_name", spec.Trigger{Primitive: spec.ByName, Match: "group-*:key-1*"}},
	{"by_set", spec.Trigger{Primitive: spec.BySet, Keys: append([]spec.Key{"never"}, millionKeys...)}},
	{"by_set_bucket", spec.Trigger{Primitive: spec.BySet, Scope: spec.ScopeBucket, Keys: append([]spec.Key{"never"}, millionKeys...)}},
	{"by_batch_size", spec.Trigger{Primitive: spec.ByBatchSize, Count: 2 * million, MaxWait: time.Hour}},
	{"by_time", spec.Trigger{Primitive: spec.ByTime, Every: 24 * time.Hour, Slide: time.Hour}},
	{"by_time_cron", spec.Trigger{Primitive: spec.ByTime, Cron: "30 2 * * *", Timezone: "Europe/Paris"}},
	{"redundant", spec.Trigger{Primitive: spec.Redundant, Scope: spec.ScopeBucket, K: 2 * million, N: 3 * million}},
	{"redundant_rounds", spec.Trigger{Primitive: spec.Redundant, Scope: spec.ScopeBucket, K: 3, N: 4}},
	{"dynamic_join", spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession}},
	{"dynamic_join_bucket", spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeBucket}},
	{"dynamic_group", spec.Trigger{
		Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: []spec.Key{"never"}},
	}},
}

// BenchmarkCount counts a million objects; ns/object must not grow with how many
// wait.
func BenchmarkCount(b *testing.B) {
	for _, c := range benchTriggers {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := triggers.New(&c.trigger)
				if err != nil {
					b.Fatal(err)
				}
				for i, k := range millionKeys {
					m.Step(triggers.Event{Kind: triggers.ObjectArrived, Now: epoch, Object: triggers.Object{Position: uint64(i + 1), Key: k}})
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/object")
		})
	}
}

// BenchmarkRestore restores machines that keep a million objects.
func BenchmarkRestore(b *testing.B) {
	for _, c := range benchTriggers {
		if triggers.Stateless(c.trigger.Primitive) || c.trigger.K == 3 {
			continue
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := triggers.Restore(&c.trigger, nil, func(yield func(triggers.Item) bool) {
					for i, k := range millionKeys {
						if !yield(triggers.Item{Object: triggers.Object{Position: uint64(i + 1), Key: k}, Time: epoch}) {
							return
						}
					}
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
