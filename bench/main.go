package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

func main() {
	var o options
	only := flag.String("only", "A,B,C,D,E,F,K", "workloads to run: A,B,C,D,E,F,K,L,G,flood,fair,primitives,scale,retention")
	runtimes := flag.String("runtimes", "go,python,wasm,inproc", "runtimes to run the functions in")
	durabilities := flag.String("durability", "durable,pipelined,ephemeral", "durability of the buckets")
	peers := flag.String("peers", "etcd,nats,nats-default", "systems of bench/peers to run the same workloads on; empty: none")
	flag.DurationVar(&o.span, "span", 3*time.Second, "how long each figure is measured, in all rounds together")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; in each all systems are measured one after the other")
	flag.IntVar(&o.shards, "shards", 1, "shards of the node")
	flag.IntVar(&o.nodes, "nodes", 1, "3 adds workload L, on three and five nodes")
	flag.IntVar(&o.kills, "kills", 5, "how often workload L kills a leader")
	flag.IntVar(&o.sleepers, "sleepers", 4000, "functions that sleep at once in workload F, at most as many as the runtime has room for")
	flag.StringVar(&o.shared, "shared-memory", "0", "memory that processes share with the node, as in 1GiB, or off")
	flag.IntVar(&o.flood, "flood", 1_000_000, "puts of each variant of workload flood")
	flag.IntVar(&o.scale, "scale", 1_000_000, "how many of each workload scale has waiting")
	flag.StringVar(&o.waiting, "waiting", "", "of workload scale only what has this in its name")
	flag.IntVar(&o.sessions, "sessions", 10_000_000, "sessions of workload retention")
	flag.DurationVar(&o.retention, "retention", time.Minute, "how long workload retention keeps a session")
	flag.StringVar(&o.dir, "dir", "", "folder for data, on the disk to measure; default: a temporary one")
	flag.StringVar(&o.out, "out", "bin/bench", "folder for report.txt, report.json and report.html")
	url := flag.String("greedy", "", "only be clients that put as fast as they can, for workload fair, at this URL")
	clients := flag.Int("clients", 64, "how many clients -greedy has")
	flag.Parse()
	if *url != "" {
		exit(greedy(*url, *clients))
	}
	o.only, o.runtimes, o.durabilities, o.peers = list(*only), list(*runtimes), list(*durabilities), list(*peers)
	if len(o.runtimes) == 0 || len(o.durabilities) == 0 {
		exit(errors.New("-runtimes and -durability: at least one of each"))
	}
	if o.nodes > 1 {
		o.only = append(o.only, "L")
	}
	exit(run(o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })
}

// options says what to measure and how.
type options struct {
	only         []string
	runtimes     []string
	durabilities []string
	peers        []string
	span         time.Duration
	rounds       int
	shards       int
	shared       string
	nodes        int
	kills        int
	sleepers     int
	flood        int
	scale        int
	waiting      string
	sessions     int
	retention    time.Duration
	dir          string
	out          string
}

func (o *options) wants(workload string) bool {
	return slices.ContainsFunc(o.only, func(w string) bool { return strings.EqualFold(w, workload) })
}

func (o *options) wantsAny(workloads ...string) bool { return slices.ContainsFunc(workloads, o.wants) }

func run(o options) error {
	if o.rounds < 1 {
		return fmt.Errorf("-rounds %d: at least one", o.rounds)
	}
	dir, err := os.MkdirTemp(o.dir, "pheromone-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	o.dir = dir
	about := report.Report{
		Machine: machine(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH, Commit: commit(),
		Date: time.Now().UTC(), Rounds: o.rounds, Span: o.span,
	}
	fmt.Printf("%s\n%s\n\n", about.Machine, about.How())
	o.span /= time.Duration(o.rounds)
	r := &recorder{}
	if err := measureAll(o, r); err != nil {
		return err
	}
	return write(o.out, report.New(about, r.sync, r.write, r.commit, r.figures))
}

// write leaves the report as text, JSON and HTML, and prints the text.
func write(dir string, r *report.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, form := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"report.txt", r.Text},
		{"report.html", r.HTML},
		{"report.json", func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(r)
		}},
	} {
		if err := writeFile(filepath.Join(dir, form.name), form.write); err != nil {
			return err
		}
	}
	fmt.Println()
	if err := r.Text(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("\nThe report is in %s: report.txt, report.json, report.html\n", dir)
	return nil
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// machine says what the figures were taken on, and how busy it was already.
func machine() string {
	model := "unknown CPU"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(raw)) {
			if name, value, _ := strings.Cut(l, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	said := fmt.Sprintf("%d cores of %s", runtime.NumCPU(), model)
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil && len(strings.Fields(string(raw))) > 0 {
		said += ", load before the run " + strings.Fields(string(raw))[0]
	}
	return said
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
