package report

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Ours is the System of what this repository measures of itself.
const Ours = "pheromone"

// Report is what a run found.
type Report struct {
	Machine string    `json:"machine"`
	Go      string    `json:"go"`
	Commit  string    `json:"commit"`
	Date    time.Time `json:"date"`
	// Rounds is how often everything was measured, one system after the other, and
	// Span how long each figure was measured in all of them together.
	Rounds int           `json:"rounds"`
	Span   time.Duration `json:"span_ns"`
	Floor  Floor         `json:"floor"`
	// Figures are the medians over the rounds.
	Figures []Figure `json:"figures"`
}

// Floor is what no durable system can be faster than on this machine.
type Floor struct {
	Sync   Figure `json:"fdatasync_4k"`     // fdatasync after an append of 4 KiB
	Write  Figure `json:"write_64m"`        // 64 MiB written once, and fdatasync
	Commit Figure `json:"bare_commit_100b"` // a proposal of 100 bytes to a raft log of one replica
}

// Figure is one line of the report. Times are in milliseconds.
type Figure struct {
	Workload   string `json:"workload"`
	System     string `json:"system,omitempty"`
	Runtime    string `json:"runtime,omitempty"`
	Durability string `json:"durability,omitempty"`
	// Setup is what the system was given, where one thing is measured on several, as
	// in "8 shards".
	Setup string `json:"setup,omitempty"`
	What  string `json:"what"`
	// Refused is why there is no figure: what the system said to the request for it.
	Refused string `json:"refused,omitempty"`

	N     int     `json:"n"`
	P50   float64 `json:"p50_ms,omitempty"`
	P99   float64 `json:"p99_ms,omitempty"`
	Rate  float64 `json:"per_second,omitempty"`
	Value float64 `json:"value,omitempty"`
	Unit  string  `json:"unit,omitempty"`
	// CPU is what the server and the functions used, in microseconds a step.
	CPU float64 `json:"cpu_us_per_step,omitempty"`

	// Commits and Syncs are the median in bare commits and in fdatasyncs of the same run.
	Commits float64 `json:"commits,omitempty"`
	Syncs   float64 `json:"syncs,omitempty"`
	// Low and High are the lowest and the highest Main of the rounds.
	Low  float64 `json:"low,omitempty"`
	High float64 `json:"high,omitempty"`
}

// Main is what the figure is about: a rate, if it has one, else a median, else a value.
func (f *Figure) Main() float64 { return cmp.Or(f.Rate, f.P50, f.Value) }

// Name says of whom the figure is, as in "pheromone go durable".
func (f *Figure) Name() string {
	return strings.Join(slices.DeleteFunc([]string{f.System, f.Runtime, f.Durability, f.Setup}, func(s string) bool { return s == "" }), " ")
}

// New makes a report of the figures of all rounds.
func New(r Report, sync, write, commit, figures []Figure) *Report {
	one := func(f []Figure) Figure {
		if merged := Merge(f); len(merged) > 0 {
			return merged[0]
		}
		return Figure{}
	}
	r.Floor = Floor{Sync: one(sync), Write: one(write), Commit: one(commit)}
	r.Figures = Merge(figures)
	for i := range r.Figures {
		f := &r.Figures[i]
		if !slices.Contains(sequential, f.Workload) {
			continue
		}
		f.Commits, f.Syncs = over(f.P50, r.Floor.Commit.P50), over(f.P50, r.Floor.Sync.P50)
	}
	return &r
}

// sequential are the workloads whose medians are those of steps one after the other
// on one node, which can be told in commits.
var sequential = []string{"A", "C", "D", "F", "K"}

// over is a ratio, or nothing where there is nothing to compare to.
func over(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// Group is the figures of all systems of one What, in the order they came in.
type Group struct {
	Workload string
	What     string
	Figures  []Figure
}

// Groups sets figures of the same thing side by side, workload by workload.
func (r *Report) Groups() []Group {
	var groups []Group
	at := map[[2]string]int{}
	for _, f := range r.Figures {
		key := [2]string{f.Workload, f.What}
		i, ok := at[key]
		if !ok {
			i = len(groups)
			at[key] = i
			groups = append(groups, Group{Workload: f.Workload, What: f.What})
		}
		groups[i].Figures = append(groups[i].Figures, f)
	}
	slices.SortStableFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(a.Workload), len(b.Workload)), strings.Compare(a.Workload, b.Workload))
	})
	return groups
}
