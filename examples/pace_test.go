package examples_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is how long a test goes on with an example that tells in real time what it
// does, until the machine is quick enough for it.
const patience = 2 * time.Minute

// batches puts four readings, of which the first three are added together if they
// come within max_wait of the first.
func batches(t *testing.T, dev *devNode) {
	const app, want, maxWait = "by-batch-size", "1 + 2 + 3 = 6\n4 = 4\n", time.Second
	began := time.Now()
	for i, key := range []string{"a", "b", "c"} {
		dev.run(t, put(app, "readings/"+key, strconv.Itoa(i+1)).command...)
	}
	inTime := time.Since(began) < maxWait
	dev.run(t, put(app, "readings/d", "4").command...)
	sums := ""
	for deadline, n := time.Now().Add(patience), 2; !strings.Contains(sums, "4 = ") && !strings.Contains(sums, "+ 4"); n++ {
		if time.Now().After(deadline) {
			t.Fatalf("it put out %q", sums)
		}
		sums = dev.outputsOf(t, app, "add", n)
	}
	if inTime && sums != want {
		t.Errorf("it put out %q, want %q", sums, want)
	}
	var terms []string
	for line := range strings.Lines(sums) {
		text, sum, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		batch := strings.Split(text, " + ")
		total := 0
		for _, term := range batch {
			n, err := strconv.Atoi(term)
			if err != nil {
				t.Errorf("it put out %q: %v", line, err)
			}
			total += n
		}
		if len(batch) > 3 || sum != strconv.Itoa(total) {
			t.Errorf("it put out %q", line)
		}
		terms = append(terms, batch...)
	}
	if strings.Join(terms, " ") != "1 2 3 4" {
		t.Errorf("it put out %q, of which the readings are %q", sums, terms)
	}
}

var reran = regexp.MustCompile(`^a at attempt \d+, b at attempt (\d+), c at attempt \d+\n$`)

// reruns puts a job until its parts a and c, which do not hang, had time enough: not
// before their executors are warm on a slow machine, where they may even be run as
// often as the rule allows.
func reruns(t *testing.T, dev *devNode) {
	const want = "a at attempt 1, b at attempt 2, c at attempt 1\n"
	for deadline := time.Now().Add(patience); ; {
		result, err := dev.try(t, append(put("rerun", "jobs/1", "go").andPrints(want).command, "-o", "json")...)
		if err == nil {
			got := outputs(t, result)
			if got == want {
				return
			}
			err = fmt.Errorf("it put out %q, want %q", got, want)
			if attempts := reran.FindStringSubmatch(got); attempts == nil || attempts[1] == "1" {
				t.Fatal(err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		t.Logf("too slow: %v", err)
	}
}
