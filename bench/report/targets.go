package report

import (
	"fmt"
	"math"
	"slices"
)

// target is what a figure of ours should be, said in what the same run measured of
// the machine, so that it holds on any.
type target struct {
	workload, what string
	durability     string   // empty: any
	runtimes       []string // empty: any
	want           string
	limit          func(*Floor) float64 // of the figure's Main
	atLeast        bool
}

// The words of the figures that have targets.
const (
	WhatChain  = "chain of 10, one session at a time"
	WhatLoaded = "chain of 10, 64 sessions in flight, steps"
	WhatFan    = "fan-out to 16 and a join"
	WhatPeak   = "peak resident memory in A–C"
	WhatIdle   = "idle node, resident"
	WhatReady  = "start to ready"
)

// What workload scale has a great many of, and what it tells of each.
const (
	WhatPending  = "pending invocations"
	WhatDelayed  = "sessions that wait for a delayed object"
	WhatWindows  = "sessions that wait for a window to close"
	WhatSets     = "sets with one of two objects"
	WhatFirstOf  = "redundant triggers with one of two objects"
	WhatResident = "resident"
	WhatReturned = "killed, until a session has finished"
)

// WhatPass is what workload D measures of a size.
func WhatPass(bytes int) string { return fmt.Sprintf("two functions that pass %d MiB", bytes>>20) }

var (
	processes = []string{"go", "python"}
	embedded  = []string{"wasm", "inproc"}
)

func commits(n, plus float64) func(*Floor) float64 {
	return func(f *Floor) float64 { return n*f.Commit.P50 + plus }
}

func just(n float64) func(*Floor) float64 { return func(*Floor) float64 { return n } }

var targets = []target{
	{workload: "A", what: WhatChain, durability: "durable", runtimes: processes, want: "≤ 1.6 × ten bare commits", limit: commits(16, 0)},
	{workload: "A", what: WhatChain, durability: "durable", runtimes: embedded, want: "≤ 1.3 × ten bare commits", limit: commits(13, 0)},
	{workload: "A", what: WhatChain, durability: "pipelined", runtimes: processes, want: "≤ two bare commits + 0.6 ms", limit: commits(2, 0.6)},
	{workload: "A", what: WhatChain, durability: "pipelined", runtimes: embedded, want: "≤ two bare commits + 0.2 ms", limit: commits(2, 0.2)},
	{workload: "A", what: WhatChain, durability: "ephemeral", runtimes: processes, want: "≤ 0.076 ms a step", limit: just(0.76)},
	{workload: "A", what: WhatChain, durability: "ephemeral", runtimes: embedded, want: "≤ 0.020 ms a step", limit: just(0.2)},
	{workload: "B", what: WhatLoaded, durability: "durable", want: "≥ 17,000 steps/s", limit: just(17_000), atLeast: true},
	{workload: "B", what: WhatLoaded, durability: "pipelined", want: "≥ 25,000 steps/s", limit: just(25_000), atLeast: true},
	{workload: "B", what: WhatLoaded, durability: "ephemeral", want: "≥ 40,000 steps/s", limit: just(40_000), atLeast: true},
	{workload: "C", what: WhatFan, durability: "durable", want: "≤ four bare commits + 1 ms", limit: commits(4, 1)},
	{workload: "C", what: WhatFan, durability: "pipelined", want: "≤ two bare commits + 1 ms", limit: commits(2, 1)},
	{workload: "C", what: WhatFan, durability: "ephemeral", want: "≤ 0.6 ms", limit: just(0.6)},
	{workload: "D", what: WhatPass(1 << 20), durability: "durable", want: "≤ 5 ms", limit: just(5)},
	{workload: "D", what: WhatPass(64 << 20), durability: "durable", want: "≤ 2 × writing 64 MiB once", limit: func(f *Floor) float64 { return 2 * f.Write.P50 }},
	{workload: "D", what: WhatPass(1 << 20), durability: "ephemeral", want: "≤ 0.25 ms", limit: just(0.25)},
	{workload: "D", what: WhatPass(64 << 20), durability: "ephemeral", want: "≤ 8 ms", limit: just(8)},
	{workload: "E", what: WhatIdle, want: "≤ 80 MiB", limit: just(80)},
	{workload: "E", what: WhatPeak, want: "≤ 200 MiB", limit: just(200)},
	{workload: "E", what: WhatReady, want: "≤ 0.5 s", limit: just(500)},
	waits(WhatPending, WhatResident, "≤ 1.5 GiB", 1536),
	waits(WhatDelayed, WhatResident, "≤ 1.5 GiB", 1536),
	waits(WhatWindows, WhatResident, "≤ 1.5 GiB", 1536),
	waits(WhatSets, WhatResident, "≤ 1.5 GiB", 1536),
	waits(WhatFirstOf, WhatResident, "≤ 1.5 GiB", 1536),
	waits(WhatPending, WhatReturned, "≤ 5 s", 5),
	waits(WhatDelayed, WhatReturned, "≤ 5 s", 5),
}

// waits is a target of workload scale.
func waits(of, what, want string, limit float64) target {
	return target{workload: "scale", what: of + ": " + what, want: want, limit: just(limit)}
}

func (t *target) of(f *Figure) bool {
	return f.System == Ours && t.workload == f.Workload && t.what == f.What &&
		(t.durability == "" || t.durability == f.Durability) &&
		(len(t.runtimes) == 0 || slices.Contains(t.runtimes, f.Runtime))
}

// Verdict is a figure held to its target.
type Verdict struct {
	Figure Figure
	Want   string
	Limit  float64
	// Ratio is how many times the limit the figure is.
	Ratio float64
	Met   bool
}

// Check holds our figures to their targets.
func (r *Report) Check() []Verdict {
	var verdicts []Verdict
	for i := range targets {
		t := &targets[i]
		for _, f := range r.Figures {
			if !t.of(&f) || f.Refused != "" {
				continue
			}
			limit := t.limit(&r.Floor)
			if limit <= 0 || f.Main() <= 0 {
				continue // a run that did not measure what it takes
			}
			verdicts = append(verdicts, verdict(f, t.want, limit, t.atLeast))
		}
	}
	return append(verdicts, r.ahead()...)
}

func verdict(f Figure, want string, limit float64, atLeast bool) Verdict {
	v := Verdict{Figure: f, Want: want, Limit: limit, Ratio: f.Main() / limit}
	v.Met = v.Ratio <= 1
	if atLeast {
		v.Met = v.Ratio >= 1
	}
	return v
}

// ahead holds our durable chains to the fastest durable peer of the same run.
func (r *Report) ahead() []Verdict {
	best := Figure{P50: math.Inf(1)}
	for _, f := range r.Figures {
		if f.Workload == "A" && f.What == WhatChain && f.System != Ours && f.Durability == "durable" && f.P50 > 0 && f.P50 < best.P50 {
			best = f
		}
	}
	if best.System == "" {
		return nil
	}
	var verdicts []Verdict
	for _, f := range r.Figures {
		if f.Workload == "A" && f.What == WhatChain && f.System == Ours && f.Durability == "durable" && f.P50 > 0 {
			verdicts = append(verdicts, verdict(f, "ahead of every durable peer: "+best.System, best.P50, false))
		}
	}
	return verdicts
}
