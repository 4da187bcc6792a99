package report

import (
	"slices"
	"time"
)

// Timed makes a figure of durations, which it sorts.
func Timed(workload, runtime, what string, took []time.Duration) Figure {
	slices.Sort(took)
	return Figure{Workload: workload, Runtime: runtime, What: what, N: len(took), P50: quantile(took, 0.5), P99: quantile(took, 0.99)}
}

// quantile is of sorted durations, in milliseconds: the one that a share q of them
// lies before.
func quantile(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	at := min(len(took)-1, int(q*float64(len(took))))
	return float64(took[at].Microseconds()) / 1000
}

// Merge makes one figure of those that several rounds have of the same thing: the
// median of each number, so that a round that was disturbed does not count, and
// between which bounds the rounds lie. What any round refused stays refused.
func Merge(all []Figure) []Figure {
	type id struct{ workload, system, runtime, durability, setup, what string }
	var order []id
	rounds := map[id][]Figure{}
	for _, f := range all {
		key := id{f.Workload, f.System, f.Runtime, f.Durability, f.Setup, f.What}
		if rounds[key] == nil {
			order = append(order, key)
		}
		rounds[key] = append(rounds[key], f)
	}
	merged := make([]Figure, 0, len(order))
	for _, key := range order {
		merged = append(merged, middle(rounds[key]))
	}
	return merged
}

// middle is the median of a figure's rounds.
func middle(rounds []Figure) Figure {
	if i := slices.IndexFunc(rounds, func(f Figure) bool { return f.Refused != "" }); i >= 0 {
		return rounds[i]
	}
	of := func(number func(*Figure) float64) []float64 {
		var all []float64
		for i := range rounds {
			all = append(all, number(&rounds[i]))
		}
		slices.Sort(all)
		return all
	}
	f := rounds[0]
	f.N = 0
	for _, r := range rounds {
		f.N += r.N
	}
	f.P50 = median(of(func(f *Figure) float64 { return f.P50 }))
	f.P99 = median(of(func(f *Figure) float64 { return f.P99 }))
	f.Rate = median(of(func(f *Figure) float64 { return f.Rate }))
	f.Value = median(of(func(f *Figure) float64 { return f.Value }))
	f.CPU = median(of(func(f *Figure) float64 { return f.CPU }))
	mains := of((*Figure).Main)
	f.Low, f.High = mains[0], mains[len(mains)-1]
	return f
}

// median is of sorted numbers.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
