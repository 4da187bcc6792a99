package report_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a small report of all kinds of figures.
func sample() *report.Report {
	figures := []report.Figure{
		{Workload: "K", System: report.Ours, What: "put of <small>", N: 100, P50: 0.5, P99: 2, Rate: 1900},
		{Workload: "A", System: report.Ours, Runtime: "go", Durability: "durable", What: report.WhatChain, N: 20, P50: 7.5, P99: 12},
		{Workload: "A", System: report.Ours, Runtime: "go", Durability: "durable", What: report.WhatChain, N: 20, P50: 8.5, P99: 40},
		{Workload: "A", System: report.Ours, Runtime: "wasm", Durability: "durable", What: report.WhatChain, Refused: `"wasm" is <not> here`},
		{Workload: "A", System: "etcd", Durability: "durable", What: report.WhatChain, N: 9, P50: 12, P99: 90},
		{Workload: "K", System: "etcd", What: "put of <small>", N: 50, P50: 0.4, P99: 9, Rate: 1000},
		{Workload: "E", System: report.Ours, What: report.WhatIdle, Value: 60, Unit: "MiB"},
		{Workload: "L", System: report.Ours, Runtime: "go", Setup: "3 nodes, 8 shards", What: "only <refused>", Refused: "no"},
	}
	return report.New(report.Report{
		Machine: "2 cores of a test", Go: "go1.26", Commit: "abc1234", Date: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Rounds: 2, Span: 3 * time.Second,
	}, of(0.25), of(100), of(0.5), figures)
}

func TestTheTextIsAsInTheGoldenFile(t *testing.T) {
	var b strings.Builder
	if err := sample().Text(&b); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the text is\n%s\nwant\n%s", b.String(), want)
	}
}

func TestThePageStandsAloneAndItsPlotsAreWhole(t *testing.T) {
	page := render(t, sample())
	for _, want := range []string{"abc1234", "2 cores of a test", "2026-11-23 12:00:00 UTC", "≤ 1.6 × ten bare commits", "only &lt;refused&gt;", "refused: &#34;wasm&#34; is &lt;not&gt; here", "3 nodes, 8 shards"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if found := regexp.MustCompile(`(?i)<script|<link|<img|https?://|<not>|<small>|<refused>|NaN|Inf\b`).FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	plots := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1)
	if len(plots) != 3 {
		t.Fatalf("the page has %d plots, want one for each thing that has a figure", len(plots))
	}
	for _, plot := range plots {
		wellFormed(t, plot)
	}
	chain := plots[0]
	if got := strings.Count(chain, "<circle"); got != 2 {
		t.Errorf("the chain's plot has %d medians, want 2:\n%s", got, chain)
	}
	for _, want := range []string{`class="limit"`, ">8.00 ms</text>", ">12.0 ms</text>"} {
		if !strings.Contains(chain, want) {
			t.Errorf("the chain's plot lacks %s:\n%s", want, chain)
		}
	}
}

func TestSlowerSystemsLieFurtherRightWithinThePlot(t *testing.T) {
	var figures []report.Figure
	for i, p50 := range []float64{0.02, 0.5, 7, 900, 45_000} {
		figures = append(figures, report.Figure{Workload: "A", System: "s" + strconv.Itoa(i), What: "w", N: 1, P50: p50, P99: p50 * 3})
	}
	page := render(t, report.New(report.Report{}, nil, nil, nil, figures))
	last := 0.0
	for _, found := range regexp.MustCompile(`<circle cx="([0-9.]+)"`).FindAllStringSubmatch(page, -1) {
		x, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		if x <= last || x >= 720 {
			t.Errorf("a median lies at %v, the faster one before it at %v", x, last)
		}
		last = x
	}
	if last == 0 {
		t.Fatal("the plot has no medians")
	}
	ticks := strings.Count(page, `class="tick"`)
	if ticks < 2 || ticks > 7 {
		t.Errorf("the axis has %d numbers", ticks)
	}
}

func TestAReportComesBackFromItsJSON(t *testing.T) {
	raw, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	var back report.Report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if got, want := render(t, &back), render(t, sample()); got != want {
		t.Error("its page is another one")
	}
}

func render(t *testing.T, r *report.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func wellFormed(t *testing.T, plot string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(plot)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Errorf("a plot is broken: %v\n%s", err, plot)
			return
		}
	}
}
