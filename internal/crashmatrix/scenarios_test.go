package crashmatrix

import (
	"bytes"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// scenario is one small workflow. What it comes to must not depend on how long
// anything takes.
type scenario struct {
	name      string
	primitive spec.Primitive    // that it is the scenario of; "" for the further ones
	about     string            // of the further ones, for the table
	functions map[string]string // of the manifest: options by name
	buckets   string
	args      []string // of the node
	drive     func(*driver)
	outputs   []string // that it has to come to, sorted
	status    wire.SessionStatus
	// loose says that which firing gets which objects is a matter of time: each
	// object is looked at by itself.
	loose bool
	// unordered says that the order of a firing's inputs is.
	unordered bool
	// emits says that what a function puts is sure to be taken before the function
	// has ended. Elsewhere that is a matter of time, and no cell dies there.
	emits bool
	// first is a point at which the node dies before it dies at the cell's.
	first string
}

var scenarios = []scenario{
	{
		name: "immediate", primitive: spec.Immediate,
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: immediate, target: report}]}",
		drive:     func(d *driver) { d.put("in", "a", "1") },
		outputs:   []string{"a=1"},
	},
	{
		name: "by_name", primitive: spec.ByName,
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_name, keys: [b], target: report}]}",
		drive:     func(d *driver) { d.put("in", "a", "1"); d.put("in", "b", "2") },
		outputs:   []string{"b=2"},
	},
	{
		name: "by_set", primitive: spec.BySet,
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_set, keys: [left, right], target: report}]}",
		drive:     func(d *driver) { d.putSession("s", "in", "right", "2"); d.putSession("s", "in", "left", "1") },
		outputs:   []string{"left=1 right=2"},
	},
	{
		name: "by_batch_size", primitive: spec.ByBatchSize,
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_batch_size, count: 2, target: report}]}",
		drive: func(d *driver) {
			for _, key := range []spec.Key{"a", "b", "c", "d"} {
				d.put("in", key, "of "+string(key))
			}
		},
		outputs: []string{"a=of a b=of b", "c=of c d=of d"},
	},
	{
		name: "by_time", primitive: spec.ByTime, loose: true,
		functions: map[string]string{"each": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_time, every: 200ms, target: each}]}",
		drive:     func(d *driver) { d.put("in", "a", "1"); d.put("in", "b", "2") },
		outputs:   []string{"a=1", "b=2"},
	},
	{
		name: "redundant", primitive: spec.Redundant, unordered: true,
		functions: map[string]string{"fan": "", "work": "", "each": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: fan}]}
  jobs: {triggers: [{name: t, primitive: immediate, target: work}]}
  done: {triggers: [{name: t, primitive: redundant, k: 2, n: 3, cancel_rest: true, target: each}]}`,
		drive:   func(d *driver) { d.put("in", "x", "a b slow") },
		outputs: []string{"a=of x", "b=of x"},
	},
	{
		name: "dynamic_join", primitive: spec.DynamicJoin, unordered: true,
		functions: map[string]string{"split": "", "count": "", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: split}]}
  parts: {triggers: [{name: t, primitive: immediate, target: count}]}
  counts: {triggers: [{name: all, primitive: dynamic_join, target: report}]}`,
		drive:   func(d *driver) { d.put("in", "x", "a b") },
		outputs: []string{"a=of x b=of x"},
		emits:   true,
	},
	{
		name: "dynamic_group", primitive: spec.DynamicGroup,
		functions: map[string]string{"map": "", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: map}]}
  groups: {triggers: [{name: t, primitive: dynamic_group, group_by: {prefix: ":"}, until: {functions: [map]}, target: report}]}`,
		drive:   func(d *driver) { d.put("in", "x", "red:0 blue:0 red:1") },
		outputs: []string{"blue:0=of x", "red:0=of x red:1=of x"},
	},
	{
		name: "set_bucket", about: "by_set of scope bucket",
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_set, scope: bucket, keys: [left, right], target: report}]}",
		drive:     func(d *driver) { d.put("in", "right", "2"); d.put("in", "left", "1") },
		outputs:   []string{"left=1 right=2"},
	},
	{
		name: "redundant_bucket", about: "redundant of scope bucket",
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: redundant, scope: bucket, k: 2, n: 3, target: report}]}",
		drive: func(d *driver) {
			for _, key := range []spec.Key{"a", "b", "c", "d", "e"} {
				d.put("in", key, "of "+string(key))
			}
		},
		outputs: []string{"a=of a b=of b", "d=of d e=of e"},
	},
	{
		name: "join_bucket", about: "dynamic_join of scope bucket", unordered: true,
		functions: map[string]string{"split": "", "count": "", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: split}]}
  parts: {triggers: [{name: t, primitive: immediate, target: count}]}
  counts: {triggers: [{name: all, primitive: dynamic_join, scope: bucket, target: report}]}`,
		drive:   func(d *driver) { d.put("in", "x", "a b") },
		outputs: []string{"a=of x b=of x"},
		emits:   true,
	},
	{
		name: "group_bucket", about: "dynamic_group of scope bucket, with a control key",
		functions: map[string]string{"report": ""},
		buckets:   `in: {triggers: [{name: t, primitive: dynamic_group, scope: bucket, group_by: {prefix: ":"}, until: {keys: [end]}, target: report}]}`,
		drive: func(d *driver) {
			for _, key := range []spec.Key{"red:0", "blue:0", "red:1", "end"} {
				d.put("in", key, "of "+string(key))
			}
		},
		outputs: []string{"blue:0=of blue:0", "red:0=of red:0 red:1=of red:1"},
	},
	{
		name: "time_session", about: "by_time of scope session", loose: true,
		functions: map[string]string{"each": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_time, scope: session, every: 200ms, target: each}]}",
		drive:     func(d *driver) { d.putSession("s", "in", "a", "1"); d.putSession("s", "in", "b", "2") },
		outputs:   []string{"a=1", "b=2"},
	},
	{
		name: "max_wait", about: "a batch that is not full fires by its timer, in a session",
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_batch_size, scope: session, count: 3, max_wait: 150ms, target: report}]}",
		drive:     func(d *driver) { d.putSession("s", "in", "a", "1") },
		outputs:   []string{"a=1"},
	},
	{
		name: "delayed", about: "an object that counts later",
		functions: map[string]string{"report": ""},
		buckets:   "in: {triggers: [{name: t, primitive: immediate, target: report}]}",
		drive:     func(d *driver) { d.putLater("in", "a", "1", 150*time.Millisecond) },
		outputs:   []string{"a=1"},
	},
	{
		name: "retry", about: "an attempt that fails and is tried again, while another trigger waits for ever",
		functions: map[string]string{"shaky": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: shaky},
    {name: waits, primitive: by_batch_size, scope: session, count: 2, target: shaky}]}`,
		drive:   func(d *driver) { d.put("in", "a", "1") },
		outputs: []string{"a=1"},
	},
	{
		name: "rerun", about: "a source that a re-execution rule runs again",
		functions: map[string]string{"forgetful": "", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: forgetful}]}
  made: {triggers: [{name: t, primitive: by_set, keys: [a], target: report, rerun: [{source: forgetful, timeout: 1s, max: 100}]}]}`,
		drive:   func(d *driver) { d.put("in", "a", "1") },
		outputs: []string{"a=1"},
	},
	{
		name: "dead_letter", about: "a failure that becomes an object",
		functions: map[string]string{"broken": "dead_letter: failed", "letter": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: broken}]}
  failed: {triggers: [{name: t, primitive: immediate, target: letter}]}`,
		drive:   func(d *driver) { d.put("in", "a", "1") },
		outputs: []string{"broken: permanent: broken for good of in/a"},
	},
	{
		name: "condition", about: "a condition that fails on an object",
		functions: map[string]string{"report": ""},
		buckets:   `in: {triggers: [{name: t, primitive: immediate, target: report, when: 'object.meta.region == "eu"'}]}`,
		drive:     func(d *driver) { d.put("in", "a", "1") },
		status:    wire.SessionFailed,
	},
	{
		name: "stream", about: "a function whose objects count while it runs",
		functions: map[string]string{"herald": "", "answer": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: herald}]}
  early: {triggers: [{name: t, primitive: immediate, target: answer}]}
  late: {}`,
		drive:   func(d *driver) { d.put("in", "a", "1") },
		outputs: []string{"1"},
		emits:   true,
	},
	{
		name: "atomic", about: "a function whose objects count all together",
		functions: map[string]string{"split": "emit: atomic", "count": "emit: atomic", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: split}]}
  parts: {triggers: [{name: t, primitive: by_set, keys: [a, b], target: count}]}
  counts: {triggers: [{name: t, primitive: immediate, target: report}, {name: all, primitive: dynamic_join, target: report}]}`,
		drive:   func(d *driver) { d.put("in", "x", "a b") },
		outputs: []string{"a=of x"},
		emits:   true,
	},
	{
		name: "large", about: "objects that do not travel through the log",
		functions: map[string]string{"double": "", "measure": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: double}]}
  large: {triggers: [{name: t, primitive: by_batch_size, count: 1, target: measure}]}`,
		drive:   func(d *driver) { d.put("in", "a", string(bytes.Repeat([]byte("x"), largeBytes))) },
		outputs: []string{"204800 bytes as sent: true"},
	},
	{
		name: "ranges", about: "a session of more objects than are deleted one by one",
		functions: map[string]string{"scatter": "", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: scatter}]}
  many: {triggers: [{name: waits, primitive: by_set, keys: ["0000", "0001", never], target: report}]}`,
		drive:   func(d *driver) { d.put("in", "a", "1") },
		outputs: []string{"1100 objects"},
		emits:   true,
	},
	{
		name: "cancel", about: "a session that its client cancels",
		functions: map[string]string{"stuck": ""},
		buckets:   "in: {triggers: [{name: t, primitive: immediate, target: stuck}]}",
		drive:     func(d *driver) { d.putSession("s", "in", "a", "1"); d.untilRunning("s"); d.cancel("s") },
		status:    wire.SessionCancelled,
	},
	{
		name: "mail", about: "a trigger that counts objects of several shards", unordered: true,
		functions: map[string]string{"each": ""},
		buckets:   "in: {triggers: [{name: t, primitive: by_batch_size, count: 4, target: each}]}",
		args:      []string{"--shards", "3"},
		drive: func(d *driver) {
			for _, key := range []spec.Key{"a", "b", "c", "d"} {
				d.put("in", key, "of "+string(key))
			}
		},
		outputs: []string{"a=of a", "b=of b", "c=of c", "d=of d"},
	},
	{
		name: "pipelined", about: "functions that run before their inputs are committed, and a join behind a durable bucket",
		functions: map[string]string{"map": "", "count": "", "report": ""},
		buckets: `in: {durability: pipelined, triggers: [{name: t, primitive: immediate, target: map}]}
  groups: {durability: pipelined, triggers: [{name: t, primitive: immediate, target: count}]}
  counts: {triggers: [{name: t, primitive: by_set, keys: [a, b], target: report}]}`,
		drive:   func(d *driver) { d.put("in", "x", "a b") },
		outputs: []string{"a=of x b=of x"},
	},
	{
		name: "ephemeral", about: "functions and a join between durable buckets, of which nobody waits for a commit",
		functions: map[string]string{"map": "", "count": "", "report": ""},
		buckets: `in: {triggers: [{name: t, primitive: immediate, target: map}]}
  groups: {durability: ephemeral, triggers: [{name: t, primitive: immediate, target: count}]}
  counts: {durability: ephemeral, triggers: [{name: t, primitive: by_set, keys: [a, b], target: report}]}`,
		drive:   func(d *driver) { d.put("in", "x", "a b") },
		outputs: []string{"a=of x b=of x"},
	},
	{
		name: "twice", about: "a second crash, while the node recovers from the first", first: "started/effected",
		functions: map[string]string{"patient": ""},
		buckets:   "in: {triggers: [{name: t, primitive: immediate, target: patient}]}",
		drive:     func(d *driver) { d.put("in", "a", "1") },
		outputs:   []string{"a=1"},
	},
}
