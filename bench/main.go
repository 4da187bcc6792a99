package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	var o options
	only := flag.String("only", "A,B,C,D,E,K", "workloads to run: A,B,C,D,E,K,G,flood,fair,primitives")
	runtimes := flag.String("runtimes", "go,python,inproc", "runtimes to run the functions in")
	flag.DurationVar(&o.span, "span", 4*time.Second, "how long each figure is measured")
	flag.IntVar(&o.shards, "shards", 1, "shards of the node")
	flag.IntVar(&o.flood, "flood", 1_000_000, "puts of each variant of workload flood")
	flag.StringVar(&o.dir, "dir", "", "folder for data; default: a temporary one")
	report := flag.String("json", "", "file to write the figures to as JSON")
	url := flag.String("greedy", "", "only be clients that put as fast as they can, for workload fair, at this URL")
	clients := flag.Int("clients", 64, "how many clients -greedy has")
	flag.Parse()
	if *url != "" {
		if err := greedy(*url, *clients); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	o.only, o.runtimes = strings.Split(*only, ","), strings.Split(*runtimes, ",")
	if err := run(o, *report); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options says what to measure and how.
type options struct {
	only     []string
	runtimes []string
	span     time.Duration
	shards   int
	flood    int
	dir      string
}

func (o *options) wants(workload string) bool { return slices.Contains(o.only, workload) }

// report is what a run found.
type report struct {
	Machine   string   `json:"machine"`
	Go        string   `json:"go"`
	Fdatasync figure   `json:"fdatasync_4k"`
	Commit    figure   `json:"bare_commit_100b"`
	Figures   []figure `json:"figures"`
}

// figure is one line of the report. Times are in milliseconds.
type figure struct {
	Workload string  `json:"workload"`
	Runtime  string  `json:"runtime,omitempty"`
	What     string  `json:"what"`
	N        int     `json:"n"`
	P50      float64 `json:"p50_ms,omitempty"`
	P99      float64 `json:"p99_ms,omitempty"`
	Rate     float64 `json:"per_second,omitempty"`
	Value    float64 `json:"value,omitempty"`
	Unit     string  `json:"unit,omitempty"`
	// Commits is the median in bare commits of the same run.
	Commits float64 `json:"commits,omitempty"`
	// CPU is what the node and its executors used, in microseconds a step.
	CPU float64 `json:"cpu_us_per_step,omitempty"`
}

func run(o options, file string) (err error) {
	dir, err := os.MkdirTemp(o.dir, "pheromone-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	o.dir = dir
	r := &report{Machine: fmt.Sprintf("%d cores, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH), Go: runtime.Version()}
	fmt.Printf("%s, %s\n\n", r.Machine, r.Go)
	if r.Fdatasync, err = measureDisk(o); err != nil {
		return err
	}
	r.print(r.Fdatasync)
	if r.Commit, err = measureCommit(o); err != nil {
		return err
	}
	r.print(r.Commit)
	if err := measureAll(o, r); err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(out, '\n'), 0o644)
}

// add prints a figure and keeps it.
func (r *report) add(f figure) {
	if f.P50 > 0 && r.Commit.P50 > 0 {
		f.Commits = f.P50 / r.Commit.P50
	}
	r.Figures = append(r.Figures, f)
	r.print(f)
}

func (r *report) print(f figure) {
	line := fmt.Sprintf("%-2s %-7s %-42s", f.Workload, f.Runtime, f.What)
	if f.P50 > 0 {
		line += fmt.Sprintf(" p50 %8.3f ms  p99 %8.3f ms", f.P50, f.P99)
	}
	if f.Commits > 0 {
		line += fmt.Sprintf("  = %5.1f commits", f.Commits)
	}
	if f.Rate > 0 {
		line += fmt.Sprintf("  %9.0f/s", f.Rate)
	}
	if f.CPU > 0 {
		line += fmt.Sprintf("  %6.0f µs CPU", f.CPU)
	}
	if f.Unit != "" {
		line += fmt.Sprintf("  %8.2f %s", f.Value, f.Unit)
	}
	fmt.Println(line)
}

// timed makes a figure of durations.
func timed(workload, runtime, what string, took []time.Duration) figure {
	slices.Sort(took)
	at := func(q float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	return figure{Workload: workload, Runtime: runtime, What: what, N: len(took), P50: at(0.5), P99: at(0.99)}
}

// repeat runs f for a while, after a warm-up of a tenth of it, and returns how
// long each run took.
func repeat(span time.Duration, f func() error) ([]time.Duration, error) {
	for end := time.Now().Add(span / 10); time.Now().Before(end); {
		if err := f(); err != nil {
			return nil, err
		}
	}
	var took []time.Duration
	for end := time.Now().Add(span); time.Now().Before(end); {
		began := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}
