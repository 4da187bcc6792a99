package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The workloads that the peers have.
var peerWorkloads = []string{"A", "B", "C", "D", "E", "K"}

// peers measures other systems with the program of bench/peers.
type peers struct {
	binary  string
	broken  error // why there is no program, which is no reason to measure nothing
	systems []string
}

// buildPeers builds the program, for which the Go module proxy must be reachable
// the first time.
func buildPeers(ctx context.Context, o options) *peers {
	p := &peers{binary: filepath.Join(o.dir, "peers"), systems: o.peers}
	if len(o.peers) == 0 || !o.wantsAny(peerWorkloads...) {
		return &peers{}
	}
	fmt.Println("building the peers, which takes some minutes the first time")
	out, err := exec.CommandContext(ctx, "go", "build", "-C", "bench/peers", "-o", p.binary, ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		p.broken = fmt.Errorf("build bench/peers: %w", err)
	}
	return p
}

// measure runs the workloads on each system, in a process of its own.
func (p *peers) measure(ctx context.Context, o options, r *recorder) error {
	only := slices.DeleteFunc(slices.Clone(peerWorkloads), func(w string) bool { return !o.wants(w) })
	for _, system := range p.systems {
		if p.broken != nil {
			for _, w := range only {
				r.add(figure{Workload: w, System: system, What: "all of it", Refused: p.broken.Error()})
			}
			continue
		}
		cmd := exec.CommandContext(ctx, p.binary, "-system", system, "-only", strings.Join(only, ","), "-span", o.span.String(), "-dir", o.dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("peer %s: %w", system, err)
		}
		var figures []figure
		read := json.NewDecoder(bytes.NewReader(out))
		read.DisallowUnknownFields() // its figures are written down there once more
		if err := read.Decode(&figures); err != nil {
			return fmt.Errorf("what peer %s reports: %w", system, err)
		}
		for _, f := range figures {
			r.add(f)
		}
	}
	return nil
}
