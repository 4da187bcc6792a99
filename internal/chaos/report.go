package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/internal/linear"
	"github.com/pheromone-run/pheromone/spec"
)

// Report counts what a run did and what it found.
type Report struct {
	Seed       uint64
	Steps      map[Kind]*Outcomes
	Sessions   map[string]int // by workflow, and firings across sessions
	Operations linear.Summary
	Puts       int // asked of the ledger
	Ledger     int // of them acknowledged, and read again
	Replicas   int // compared
	Rounds     []string
}

// Outcomes are what the faults of one kind have cost.
type Outcomes struct {
	Gaps       []time.Duration // the longest time in which some shard took no write
	Recoveries []time.Duration // from the fault's end until all shards took writes
}

func (r *Report) step(s Step, gap, recovery time.Duration) {
	if r.Steps == nil {
		r.Steps = map[Kind]*Outcomes{}
	}
	if r.Steps[s.Kind] == nil {
		r.Steps[s.Kind] = &Outcomes{}
	}
	o := r.Steps[s.Kind]
	o.Gaps = append(o.Gaps, gap)
	o.Recoveries = append(o.Recoveries, recovery)
}

func (r *Report) round(app spec.AppName, counts map[string]int, s linear.Summary, p *probe, replicas int) {
	if r.Sessions == nil {
		r.Sessions = map[string]int{}
	}
	for name, n := range counts {
		r.Sessions[name] += n
	}
	r.Operations.Operations += s.Operations
	r.Operations.Done += s.Done
	r.Operations.Missing += s.Missing
	r.Operations.Refused += s.Refused
	r.Operations.Unknown += s.Unknown
	r.Operations.Events += s.Events
	r.Puts += p.asked
	r.Ledger += len(p.ledger)
	r.Replicas += replicas
	r.Rounds = append(r.Rounds, fmt.Sprintf("%s: %v; %v; ledger %d of %d", app, counts, s, len(p.ledger), p.asked))
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %d rounds\n", r.Seed, len(r.Rounds))
	fmt.Fprintf(&b, "%-10s %5s  %-23s %-23s\n", "fault", "times", "no write for, p50/max", "recovered in, p50/max")
	for _, kind := range slices.Sorted(maps.Keys(r.Steps)) {
		o := r.Steps[kind]
		fmt.Fprintf(&b, "%-10s %5d  %-23s %-23s\n", kind, len(o.Gaps), middleAndMost(o.Gaps), middleAndMost(o.Recoveries))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Sessions)) {
		fmt.Fprintf(&b, "%s %d  ", name, r.Sessions[name])
	}
	fmt.Fprintf(&b, "\n%v\nledger: %d of %d puts acknowledged, all read again; %d replicas compared\n", r.Operations, r.Ledger, r.Puts, r.Replicas)
	for _, line := range r.Rounds {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}

func middleAndMost(all []time.Duration) string {
	sorted := slices.Sorted(slices.Values(all))
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
	return fmt.Sprintf("%v / %v", round(sorted[len(sorted)/2]), round(sorted[len(sorted)-1]))
}
