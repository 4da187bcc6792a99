package chaos

import (
	"fmt"
	"slices"

	"github.com/pheromone-run/pheromone/spec/wire"
)

// checkCounted compares what a trigger of scope bucket has passed on, in firings of
// keys, with what it was given: each key once, in batches of size if it is not 0.
// With a size, keys that don't make a whole batch have to wait.
func checkCounted(what string, given []string, firings [][]string, size int) (faults []error) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf(what+": "+format, args...))
	}
	times := map[string]int{}
	for _, keys := range firings {
		if size > 0 && len(keys) != size {
			fault("a firing has %d objects, want %d", len(keys), size)
		}
		for _, key := range keys {
			times[key]++
		}
	}
	missing := 0
	for _, key := range given {
		switch times[key] {
		case 0:
			missing++
		case 1:
		default:
			fault("%s was counted %d times", key, times[key])
		}
		delete(times, key)
	}
	for key := range times {
		fault("%s was counted and never given", key)
	}
	wait := 0
	if size > 0 {
		wait = len(given) % size
	}
	if missing != wait {
		fault("%d of %d objects were not counted, want %d", missing, len(given), wait)
	}
	return faults
}

// checkFired finds what has fired twice in a session, or not at all, or did not
// succeed. want is how many invocations each function has.
func checkFired(history []wire.Invocation, want map[string]int) (faults []error) {
	fired, functions := map[string]int{}, map[string]int{}
	for _, inv := range history {
		var inputs []string
		for _, in := range inv.Inputs {
			inputs = append(inputs, string(in.Key))
		}
		slices.Sort(inputs)
		fired[fmt.Sprintf("%s by %s/%s with %v", inv.Function, inv.Bucket, inv.Trigger, inputs)]++
		functions[string(inv.Function)]++
		if inv.State != "succeeded" {
			faults = append(faults, fmt.Errorf("invocation %s of %s is %s", inv.ID, inv.Function, inv.State))
		}
	}
	for what, times := range fired {
		if times > 1 {
			faults = append(faults, fmt.Errorf("%s fired %d times", what, times))
		}
	}
	for function, n := range want {
		if functions[function] != n {
			faults = append(faults, fmt.Errorf("%s has %d invocations, want %d", function, functions[function], n))
		}
		delete(functions, function)
	}
	for function, n := range functions {
		faults = append(faults, fmt.Errorf("%s has %d invocations, want none", function, n))
	}
	return faults
}
