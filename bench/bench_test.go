package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
	"github.com/pheromone-run/pheromone/bench/work"
	"github.com/pheromone-run/pheromone/spec"
)

func TestTheAppHasNoFaultInAnyRuntimeThatThereIs(t *testing.T) {
	for _, runtime := range []string{"go", "python", "inproc"} {
		app, faults, err := spec.Parse("app.yaml", []byte(manifest(runtime, "durable")), spec.FormatYAML)
		if err != nil {
			t.Fatalf("%s: %v: %+v", runtime, err, faults)
		}
		if why := refusal(runtime, "durable"); why != "" {
			t.Errorf("%s is refused: %s", runtime, why)
		}
		for name := range app.Functions {
			if work.Functions()[string(name)] == nil {
				t.Errorf("%s: the manifest has a function %s, which is not written", runtime, name)
			}
		}
	}
}

func TestWhatTheNodeDoesNotOfferIsRefusedWithItsReason(t *testing.T) {
	if why := refusal("go", "engraved"); !strings.Contains(why, "engraved") {
		t.Errorf("a durability that there is not: refused with %q", why)
	}
	if why := clusterRefusal("inproc", "durable"); why == "" {
		t.Error("a cluster of processes runs functions of this one")
	}
}

// Figures stand side by side by the words of what they are of.
func TestPeersUseTheSameWords(t *testing.T) {
	source, err := os.ReadFile("peers/workloads.go")
	if err != nil {
		t.Fatal(err)
	}
	pattern := strings.Replace(report.WhatPass(1<<20), "1", "%d", 1)
	for _, want := range []string{report.WhatChain, report.WhatLoaded, report.WhatFan, report.WhatPeak, pattern, "%s of %d bytes, %s", whatWatch} {
		if !strings.Contains(string(source), `"`+want+`"`) {
			t.Errorf("the peers have nothing of %q", want)
		}
	}
}

func TestAttemptsAreAddedUpOverNodes(t *testing.T) {
	a := attempts{on: map[string]float64{}}
	for _, metrics := range []string{
		"# HELP x y\npheromone_attempts_total{on=\"leader\"} 90\npheromone_attempts_total{on=\"replica\"} 6\npheromone_attempts_inputs_local_total 95\n",
		"pheromone_attempts_total{on=\"leader\"} 1e+02\npheromone_attempts_total{on=\"other\"} 4\npheromone_attempts_inputs_local_total 100\nother_total 7\n",
	} {
		if err := a.read([]byte(metrics)); err != nil {
			t.Fatal(err)
		}
	}
	if a.all() != 200 || a.local != 195 || a.on["leader"] != 190 {
		t.Errorf("added up: %+v", a)
	}
	if err := a.read([]byte("up 1\n")); err == nil {
		t.Error("metrics that say nothing of attempts are taken for none")
	}
}

func TestAPulseKnowsItsLongestPause(t *testing.T) {
	var p pulse
	p.reset()
	p.beat()
	p.last = p.last.Add(-time.Hour)
	p.beat()
	p.beat()
	if longest, beats := p.read(); beats != 3 || longest < time.Hour || longest > time.Hour+time.Minute {
		t.Errorf("longest %v, %d beats", longest, beats)
	}
	p.reset()
	if longest, beats := p.read(); longest != 0 || beats != 0 {
		t.Errorf("after a reset: longest %v, %d beats", longest, beats)
	}
}

func TestTheEndOfALongRunIsHeldAgainstItsFirstSteadyParts(t *testing.T) {
	run := func(rates ...float64) []slice {
		var all []slice
		for i, rate := range rates {
			all = append(all, slice{figure: figure{What: "sessions", Rate: rate, CPU: 300}, steady: i >= 2, disk: 100, memory: 200})
		}
		return all
	}
	for name, c := range map[string]struct {
		all  []slice
		want string
	}{
		"as fast as before":           {run(9, 9, 100, 100, 100, 95, 100, 104), "×, within 10 %"},
		"slower":                      {run(9, 9, 100, 100, 100, 80, 80, 80), "×, more than 10 % apart"},
		"faster, for another reason":  {run(9, 9, 100, 100, 100, 120, 120, 120), "×, more than 10 % apart"},
		"over before it was steady":   {run(9, 9, 100, 100), ""},
		"the same three at both ends": {run(9, 9, 100, 100, 100), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			r.compare(c.all)
			if got := r.figures[0]; got.Unit != c.want || (c.want == "") != (got.Refused != "") {
				t.Errorf("told as %+v", got)
			}
		})
	}
}
