package report_test

import (
	"testing"

	"github.com/pheromone-run/pheromone/bench/report"
)

func chain(system, runtime, durability string, p50 float64) report.Figure {
	return report.Figure{Workload: "A", System: system, Runtime: runtime, Durability: durability, What: report.WhatChain, P50: p50}
}

// floor has a commit of 0.5 ms.
func withFloor(figures ...report.Figure) *report.Report {
	return report.New(report.Report{}, of(0.25), of(100), of(0.5), figures)
}

func TestTargetsFollowTheMachinesOwnCommits(t *testing.T) {
	loaded := report.Figure{Workload: "B", System: report.Ours, Runtime: "go", Durability: "durable", What: report.WhatLoaded, Rate: 18_000, P50: 30}
	passed := report.Figure{Workload: "D", System: report.Ours, Runtime: "go", Durability: "durable", What: report.WhatPass(64 << 20), P50: 300}
	for _, tt := range []struct {
		name   string
		figure report.Figure
		limit  float64
		ratio  float64
		met    bool
	}{
		{"a chain of processes", chain(report.Ours, "go", "durable", 8), 8, 1, true},
		{"a chain that is too slow", chain(report.Ours, "python", "durable", 16), 8, 2, false},
		{"a chain in the node", chain(report.Ours, "inproc", "durable", 6.5), 6.5, 1, true},
		{"a pipelined chain", chain(report.Ours, "go", "pipelined", 1.6), 1.6, 1, true},
		{"an ephemeral chain", chain(report.Ours, "wasm", "ephemeral", 0.1), 0.2, 0.5, true},
		{"more than the rate asked for", loaded, 17_000, 18.0 / 17, true},
		{"a large object against writing it once", passed, 200, 1.5, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := withFloor(tt.figure).Check()
			if len(got) != 1 {
				t.Fatalf("verdicts: %+v", got)
			}
			if v := got[0]; !near(v.Limit, tt.limit) || !near(v.Ratio, tt.ratio) || v.Met != tt.met {
				t.Errorf("limit %v, ratio %v, met %v; want %v, %v, %v", v.Limit, v.Ratio, v.Met, tt.limit, tt.ratio, tt.met)
			}
		})
	}
}

func TestPeersAndRefusalsHaveNoTargets(t *testing.T) {
	refused := chain(report.Ours, "go", "durable", 0)
	refused.Refused = "not in this version"
	if got := withFloor(refused, chain("etcd", "", "durable", 3)).Check(); len(got) != 0 {
		t.Errorf("verdicts: %+v", got)
	}
	// What the target is a multiple of was not measured.
	if got := report.New(report.Report{}, nil, nil, nil, []report.Figure{chain(report.Ours, "go", "durable", 3)}).Check(); len(got) != 0 {
		t.Errorf("verdicts without a floor: %+v", got)
	}
}

func TestOurChainIsHeldToTheFastestDurablePeer(t *testing.T) {
	verdicts := withFloor(
		chain("slow", "", "durable", 9), chain("fast", "", "durable", 4), chain("faster", "", "unsynced", 1),
		chain(report.Ours, "go", "durable", 5),
	).Check()
	last := verdicts[len(verdicts)-1]
	if len(verdicts) != 2 || last.Limit != 4 || last.Met {
		t.Errorf("verdicts: %+v", verdicts)
	}
}
