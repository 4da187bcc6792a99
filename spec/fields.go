package spec

import (
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// APIVersion is the version of the manifest's language, the value of apiVersion.
const APIVersion = "pheromone/v1"

// Bounds of a manifest as a whole. What goes beyond one is a fault.
const (
	MaxManifestBytes     = 1 << 20
	MaxFunctions         = 1000
	MaxBuckets           = 1000
	MaxTriggersPerBucket = 100
	// MaxFaults bounds the faults that are told of one manifest.
	MaxFaults = 1000

	maxTokens = 200_000
)

// Defaults and bounds of an app's own fields.
const (
	DefaultRetention = time.Hour // retention, from 0 (delete at once)
	MaxRetention     = 30 * 24 * time.Hour

	MinSessionTimeout = time.Millisecond // session_timeout, or 0 (for ever), the default
	MaxSessionTimeout = 365 * 24 * time.Hour

	DefaultMaxObjectBytes = 256 << 20 // limits.max_object_size
	MinMaxObjectBytes     = 1 << 10
	MaxMaxObjectBytes     = 1 << 30

	DefaultMaxPending = 1_000_000 // limits.max_pending, from 1
	MaxMaxPending     = 10_000_000

	DefaultMaxSessionObjects = 1_000_000 // limits.max_session_objects, from 1
	MaxMaxSessionObjects     = 10_000_000
)

// Defaults and bounds of functions.
const (
	DefaultTimeout = 30 * time.Second // timeout of one attempt
	MinTimeout     = time.Millisecond
	MaxTimeout     = 24 * time.Hour

	DefaultMaxAttempts = 4 // retry.max_attempts, from 1 (never retry)
	MaxMaxAttempts     = 1000

	DefaultBackoff    = 100 * time.Millisecond // retry.backoff
	DefaultMaxBackoff = 10 * time.Second       // retry.max_backoff, at least retry.backoff
	MinBackoff        = time.Millisecond       // of both
	MaxBackoff        = time.Hour
	MaxMaxBackoff     = 24 * time.Hour

	MaxConcurrency = 10_000 // concurrency, from 0 (the executors' capacity), the default

	MaxCommandArgs     = 100 // command, the program included
	MaxCommandArgBytes = 4096

	MaxEnv           = 100 // variables of env
	MaxEnvNameBytes  = 128
	MaxEnvValueBytes = 8192

	MaxFileBytes = 1024 // file, a path in the artifact's folder

	DefaultMemory = 128 << 20 // memory of an instance of a module
	MinMemory     = 1 << 20
	MaxMemory     = 2 << 30
	// ReservedEnvPrefix starts the variables that the platform sets.
	ReservedEnvPrefix = "PHEROMONE_"
)

// Defaults and bounds of triggers.
const (
	MaxTargets     = 100    // target, and until.functions
	MaxTriggerKeys = 10_000 // keys of by_name and by_set, and until.keys

	DefaultReruns = 3                // rerun: max
	MaxReruns     = 100              // rerun: max, from 1
	MaxRerunRules = 100              // of one trigger
	MaxBatchCount = 100_000          // by_batch_size: count, from 1
	MinWait       = time.Millisecond // by_batch_size: max_wait, unless it is 0 (wait for ever), the default
	MaxWait       = 30 * 24 * time.Hour

	MinWindow        = 10 * time.Millisecond // by_time: every and slide
	MaxWindow        = 30 * 24 * time.Hour
	MaxWindowsAtOnce = 1000 // by_time: every divided by slide
	// DefaultTimezone is what a cron is read in if the manifest does not say.
	DefaultTimezone = "UTC"

	MaxRedundant = 10_000 // redundant: n; k is at most n

	MaxGroupPrefixBytes = 64  // dynamic_group: group_by.prefix
	MaxMetaNameBytes    = 128 // dynamic_group: group_by.meta

	MaxOptions         = 100      // of a custom primitive
	MaxOptionItems     = 1000     // of one that is a list
	MaxOptionTextBytes = 4 << 10  // of one text
	MaxOptionsBytes    = 64 << 10 // of all of a trigger, as JSON
)

// The tables below are the manifest's language. The parser, the canonical
// manifest, the difference of two apps and the schema are all made from them.

const (
	namePattern = `^[a-z][a-z0-9_-]{0,62}$`
	envPattern  = `^[A-Za-z_][A-Za-z0-9_]*$`
)

func nameKind[S ~string](what string, check func(string) error) text[S] {
	return text[S]{what: "the name of " + what, check: check, pattern: namePattern}
}

var (
	functionName = nameKind[FunctionName]("a function", ValidFunctionName)
	bucketName   = nameKind[BucketName]("a bucket", ValidBucketName)
	keyText      = text[Key]{what: "a key", check: ValidKey}
)

func keyList(least int) list[Key] {
	return list[Key]{item: keyText, what: "keys", least: least, most: MaxTriggerKeys}
}

var appObject = object[App]{
	what: "an app",
	fields: []field[App]{
		apiVersionField,
		required("app", kind[AppName](nameKind[AppName]("an app", ValidAppName)), func(a *App) *AppName { return &a.Name },
			"the app's name", "The app's name."),
		optional("functions", kind[map[FunctionName]*Function](table[FunctionName, *Function]{
			what: "functions", most: MaxFunctions, key: ValidFunctionName, names: namePattern,
			value: pointer[Function]{functionObject}, named: func(f *Function, name FunctionName) { f.Name = name },
		}), func(a *App) *map[FunctionName]*Function { return &a.Functions },
			"The app's functions by name, at most 1000."),
		optional("buckets", kind[map[BucketName]*Bucket](table[BucketName, *Bucket]{
			what: "buckets", most: MaxBuckets, key: ValidBucketName, names: namePattern,
			value: pointer[Bucket]{bucketObject}, named: func(b *Bucket, name BucketName) { b.Name = name },
		}), func(a *App) *map[BucketName]*Bucket { return &a.Buckets },
			"The app's buckets by name, at most 1000. Every function has an inbox, @name, beside them."),
		defaulted("retention", kind[time.Duration](duration{most: MaxRetention, zero: true}), DefaultRetention,
			func(a *App) *time.Duration { return &a.Retention },
			"How long a finished session is kept, at most 720h; 0 deletes it at once."),
		defaulted("session_timeout", kind[time.Duration](duration{least: MinSessionTimeout, most: MaxSessionTimeout, zero: true}), 0,
			func(a *App) *time.Duration { return &a.SessionTimeout },
			"How long a session may run before it fails, from 1ms to 8760h; 0 is for ever. A request may set another one for its session."),
		defaulted("durability", kind[Durability](durabilities), Durable,
			func(a *App) *Durability { return &a.Durability },
			"The durability of buckets that do not say theirs, of the functions' inboxes and of the results that functions output."),
		nested("limits", limitsObject, func(a *App) *Limits { return &a.Limits },
			"What the app may use."),
	},
	check: func(_ *reader, _ string, n *node, a *App) {
		declared := n.get("buckets")
		for name, b := range a.Buckets {
			if of := declared.get(string(name)); of != nil && !of.has("durability") {
				b.Durability = a.Durability
			}
		}
	},
}

var durabilities = choice[Durability]{words: []Durability{Durable, Pipelined, Ephemeral}}

// apiVersionField holds nothing: there is one version.
var apiVersionField = field[App]{
	name: "apiVersion", doc: "The version of the manifest's language: " + APIVersion + ".",
	required: true, missing: "write apiVersion: " + APIVersion,
	read: func(r *reader, path string, n *node, _ *App) bool {
		_, ok := choice[string]{words: []string{APIVersion}}.read(r, path, n)
		return ok
	},
	fill:   func(*App) {},
	print:  func(*App) *node { return textOf(APIVersion) },
	schema: func() *node { return mapOf().set("const", textOf(APIVersion)) },
}

var limitsObject = object[Limits]{
	what: "limits",
	fields: []field[Limits]{
		defaulted("max_object_size", kind[int64](size{MinMaxObjectBytes, MaxMaxObjectBytes}), DefaultMaxObjectBytes,
			func(l *Limits) *int64 { return &l.MaxObjectBytes },
			"The largest object that is taken, from 1KiB to 1GiB."),
		defaulted("max_pending", kind[int](count{1, MaxMaxPending}), DefaultMaxPending,
			func(l *Limits) *int { return &l.MaxPending },
			"Invocations of the app that may be pending on one shard; more are answered with overloaded."),
		defaulted("max_session_objects", kind[int](count{1, MaxMaxSessionObjects}), DefaultMaxSessionObjects,
			func(l *Limits) *int { return &l.MaxSessionObjects },
			"Objects that one session may hold."),
	},
}

var functionObject = object[Function]{
	what: "a function",
	fields: []field[Function]{
		defaulted("runtime", kind[Runtime](choice[Runtime]{
			words: []Runtime{RuntimeProcess, RuntimeWasm, RuntimeInproc},
			later: map[Runtime]string{RuntimeEndpoint: "use process, with a command that calls the endpoint"},
		}), RuntimeProcess, func(f *Function) *Runtime { return &f.Runtime },
			"What runs the function: process starts command; wasm runs the WebAssembly module in file; inproc is a Go function of the program that embeds the node."),
		optional("command", kind[[]string](list[string]{
			item: text[string]{what: "text", most: MaxCommandArgBytes}, what: "arguments", least: 1, most: MaxCommandArgs,
		}), func(f *Function) *[]string { return &f.Command },
			"The program and its arguments, run in the folder of the manifest; needed for process. Functions with equal command and env share processes."),
		optional("env", kind[map[string]string](table[string, string]{
			what: "environment variables", most: MaxEnv, key: validEnvName, names: envPattern,
			value: text[string]{what: "text", most: MaxEnvValueBytes},
		}), func(f *Function) *map[string]string { return &f.Env },
			"Environment variables of the process, at most 100. Names that start with PHEROMONE_ are the platform's."),
		optional("file", kind[string](text[string]{what: "a path", check: validFile, most: MaxFileBytes}), func(f *Function) *string { return &f.File },
			"The WebAssembly module of runtime wasm, in the folder of the manifest. Functions with equal file and memory share processes."),
		optional("memory", kind[int64](size{MinMemory, MaxMemory}), func(f *Function) *int64 { return &f.Memory },
			"The most memory that one instance of the module may have, from 1MiB to 2GiB, default 128MiB; for runtime wasm."),
		defaulted("timeout", kind[time.Duration](duration{least: MinTimeout, most: MaxTimeout}), DefaultTimeout,
			func(f *Function) *time.Duration { return &f.Timeout },
			"How long one attempt may take, from 1ms to 24h."),
		nested("retry", retryObject, func(f *Function) *Retry { return &f.Retry },
			"How a failed attempt is followed by another one."),
		defaulted("concurrency", kind[int](count{0, MaxConcurrency}), 0,
			func(f *Function) *int { return &f.Concurrency },
			"Attempts of the function that run at once on a node; 0 leaves it to the executors' capacity."),
		defaulted("max_pending", kind[int](count{0, MaxMaxPending}), 0,
			func(f *Function) *int { return &f.MaxPending },
			"Invocations of the function that may be pending on one shard; what would fire it beyond is answered with overloaded. 0 leaves it to limits.max_pending."),
		optional("dead_letter", kind[BucketName](bucketName), func(f *Function) *BucketName { return &f.DeadLetter },
			"The bucket of this app that gets the failure as an object when the function gives up. Without it, the session fails."),
		defaulted("emit", kind[Emit](choice[Emit]{words: []Emit{EmitStream, EmitAtomic}}), EmitStream,
			func(f *Function) *Emit { return &f.Emit },
			"When the objects of an attempt count: stream, each as soon as it is sent; atomic, all together once the attempt has succeeded."),
	},
	check: checkFunction,
}

var retryObject = object[Retry]{
	what: "retry",
	fields: []field[Retry]{
		defaulted("max_attempts", kind[int](count{1, MaxMaxAttempts}), DefaultMaxAttempts,
			func(p *Retry) *int { return &p.MaxAttempts },
			"Attempts in all; 1 never retries."),
		defaulted("backoff", kind[time.Duration](duration{least: MinBackoff, most: MaxBackoff}), DefaultBackoff,
			func(p *Retry) *time.Duration { return &p.Backoff },
			"The wait after the first attempt, from 1ms to 1h; it doubles with each attempt, with jitter."),
		defaulted("max_backoff", kind[time.Duration](duration{least: MinBackoff, most: MaxMaxBackoff}), DefaultMaxBackoff,
			func(p *Retry) *time.Duration { return &p.MaxBackoff },
			"The longest wait between attempts, from 1ms to 24h; at least backoff."),
	},
	check: func(r *reader, path string, n *node, p *Retry) {
		if p.Backoff <= p.MaxBackoff {
			return
		}
		at := n.get("backoff")
		if at == nil {
			at = n.get("max_backoff")
		}
		r.fault(at.at, path, "backoff (%s) is longer than max_backoff (%s): make one of them fit",
			FormatDuration(p.Backoff), FormatDuration(p.MaxBackoff))
	},
}

var bucketObject = object[Bucket]{
	what: "a bucket",
	fields: []field[Bucket]{
		defaulted("durability", kind[Durability](durabilities), Durable, func(b *Bucket) *Durability { return &b.Durability },
			"When the bucket's triggers fire, and what a crash takes: durable, once the object is committed by a majority and on disk; pipelined, at once, while the commit is on its way, so that a function may run on an object that is then lost, and is run again; ephemeral, at once, and nobody waits for the commit, which comes a moment later with others, so that what a crash takes is made again from what was committed before it. The app's durability if it is not said."),
		optional("triggers", kind[[]*Trigger](list[*Trigger]{
			item: pointer[Trigger]{triggerObject}, what: "triggers", most: MaxTriggersPerBucket,
		}), func(b *Bucket) *[]*Trigger { return &b.Triggers },
			"The rules that say when and how the bucket's objects are passed to functions, at most 100."),
	},
	check: checkTriggerNames,
}

func validFile(s string) error {
	if !filepath.IsLocal(s) || filepath.Clean(s) != s || s == "." {
		return Errorf(CodeInvalid, "bad file %q: use the path of a file in the manifest's folder, such as app.wasm", clip(s))
	}
	return nil
}

var envName = regexp.MustCompile(envPattern)

func validEnvName(s string) error {
	switch {
	case len(s) > MaxEnvNameBytes || !envName.MatchString(s):
		return Errorf(CodeInvalid, "bad environment variable %q: use letters, digits and '_', not starting with a digit, at most %d bytes",
			clip(s), MaxEnvNameBytes)
	case strings.HasPrefix(s, ReservedEnvPrefix):
		return Errorf(CodeInvalid, "bad environment variable %q: names that start with %s are the platform's", s, ReservedEnvPrefix)
	}
	return nil
}
