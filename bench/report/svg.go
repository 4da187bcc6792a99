package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The plot's measures, in the units of its view box.
const (
	plotWidth  = 720.0
	labelWidth = 240.0
	valueWidth = 120.0 // for the number at a row's end
	rowHeight  = 24.0
	axisHeight = 26.0
	plotLeft   = labelWidth + 10
	plotRight  = plotWidth - valueWidth
)

// plot draws a group: one row a system that has a figure; the table under it tells
// what was refused. Rates and other values are bars from zero; times are a dot at
// the median and a line to the p99, on a logarithmic scale, as the systems lie
// orders of magnitude apart. Limits are dashed.
func plot(g Group, limits []float64) string {
	g.Figures = slices.DeleteFunc(slices.Clone(g.Figures), func(f Figure) bool { return f.Refused != "" })
	if len(g.Figures) == 0 {
		return ""
	}
	timed := isTimed(g)
	s := scaleOf(g, limits, timed)
	height := rowHeight*float64(len(g.Figures)) + axisHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, height, html.EscapeString(g.What))
	for _, t := range s.ticks() {
		x := s.at(t)
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="0" y2="%.1f"/>`, x, x, height-axisHeight)
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x, height-9, tick(t))
	}
	for i, f := range g.Figures {
		drawRow(&b, &s, &f, float64(i)*rowHeight+rowHeight/2, timed)
	}
	for _, l := range limits {
		x := s.at(l)
		fmt.Fprintf(&b, `<line class="limit" x1="%.1f" x2="%.1f" y1="0" y2="%.1f"><title>target %s</title></line>`, x, x, height-axisHeight, short(l))
	}
	b.WriteString("</svg>")
	return b.String()
}

func drawRow(b *strings.Builder, s *scale, f *Figure, y float64, timed bool) {
	class := "peer"
	if f.System == Ours {
		class = "ours"
	}
	fmt.Fprintf(b, `<g class="%s"><text class="name" x="%g" y="%.1f" text-anchor="end">%s</text>`, class, labelWidth, y+4, html.EscapeString(f.Name()))
	switch {
	case timed:
		from, to := s.at(f.P50), s.at(max(f.P50, f.P99))
		fmt.Fprintf(b, `<line class="range" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, from, to, y, y)
		fmt.Fprintf(b, `<line class="range" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, to, to, y-4, y+4)
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="5"/>`, from, y)
		fmt.Fprintf(b, `<text class="value" x="%g" y="%.1f" text-anchor="end">%s ms</text>`, plotWidth, y+4, short(f.P50))
	default:
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="14" rx="2"/>`, plotLeft, y-7, max(1, s.at(f.Main())-plotLeft))
		if f.High > f.Low {
			fmt.Fprintf(b, `<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, s.at(f.Low), s.at(f.High), y, y)
		}
		fmt.Fprintf(b, `<text class="value" x="%g" y="%.1f" text-anchor="end">%s</text>`, plotWidth, y+4, html.EscapeString(short(f.Main())+unit(f)))
	}
	b.WriteString("</g>")
}

func unit(f *Figure) string {
	switch {
	case f.Rate > 0:
		return "/s"
	case f.Unit == "%":
		return " %"
	case f.Unit != "":
		return " " + f.Unit
	}
	return ""
}

// isTimed says whether a group is about how long something takes.
func isTimed(g Group) bool { return g.Figures[0].Rate == 0 && g.Figures[0].P50 > 0 }

// scale puts numbers on the plot's width.
type scale struct {
	low, high float64
	log       bool
}

func scaleOf(g Group, limits []float64, timed bool) scale {
	low, high := math.Inf(1), 0.0
	see := func(v float64) {
		if v > 0 {
			low, high = min(low, v), max(high, v)
		}
	}
	for _, f := range g.Figures {
		see(f.Main())
		if timed {
			see(f.P99)
		} else {
			see(f.High)
		}
	}
	for _, l := range limits {
		see(l)
	}
	if high == 0 {
		low, high = 1, 10 // nothing but zeros
	}
	if !timed {
		return scale{low: 0, high: high}
	}
	return scale{low: low / 1.3, high: max(high*1.1, low*2), log: true}
}

func (s *scale) at(v float64) float64 {
	share := (v - s.low) / (s.high - s.low)
	if s.log {
		share = math.Log(max(v, s.low)/s.low) / math.Log(s.high/s.low)
	}
	return plotLeft + share*(plotRight-plotLeft)
}

// maxTicks is as many numbers as are legible under the axis.
const maxTicks = 7

// ticks are round numbers within the scale.
func (s *scale) ticks() []float64 {
	if !s.log {
		step := roundUp(s.high / 4)
		var ticks []float64
		for v := 0.0; v <= s.high*1.001; v += step {
			ticks = append(ticks, v)
		}
		return ticks
	}
	for _, marks := range [][]float64{{1, 2, 5}, {1, 3}, {1}} {
		var ticks []float64
		for decade := math.Floor(math.Log10(s.low)); decade <= math.Log10(s.high); decade++ {
			for _, m := range marks {
				if v := m * math.Pow(10, decade); v >= s.low && v <= s.high {
					ticks = append(ticks, v)
				}
			}
		}
		if len(ticks) <= maxTicks {
			return ticks
		}
	}
	return nil
}

// roundUp is the next of 1, 2, 5, 10, 20, 50 …
func roundUp(v float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*decade >= v {
			return m * decade
		}
	}
	return 10 * decade
}

func tick(v float64) string {
	if v >= 10_000 {
		return fmt.Sprintf("%gk", math.Round(v/100)/10)
	}
	return fmt.Sprintf("%g", math.Round(v*1e6)/1e6)
}
