package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// job is a session that was asked for, and what it has to come to.
type job struct {
	number  int
	session spec.SessionID
	result  wire.Result
}

// workflow is a kind of job.
type workflow struct {
	name    string
	bucket  spec.BucketName // a put there starts one
	input   func(number int) string
	right   func(number int, output string) bool
	fires   map[string]int // invocations of each function
	counted bool           // it goes on across sessions
}

var workflows = []workflow{
	{
		name: "chain", bucket: "one", counted: true, fires: map[string]int{"first": 1, "second": 1, "third": 1},
		input: func(number int) string { return fmt.Sprint(number) },
		right: func(number int, output string) bool { return output == fmt.Sprint(number+3) },
	},
	{ // 25 words in parts of 6, and what is left over
		name: "words", bucket: "documents", fires: map[string]int{"split": 1, "count": 5, "merge": 1},
		input: func(number int) string {
			return strings.TrimSpace(strings.Repeat(fmt.Sprintf("alpha beta beta gamma w%d ", number), 5))
		},
		right: func(number int, output string) bool {
			return output == fmt.Sprintf(`{"alpha": 5, "beta": 10, "gamma": 5, "w%d": 5}`, number)
		},
	},
	{
		name: "race", bucket: "races", fires: map[string]int{"start": 1, "run": 4, "podium": 1},
		input: func(number int) string { return fmt.Sprint(number) },
		right: func(_ int, output string) bool {
			var lanes []string
			return json.Unmarshal([]byte(output), &lanes) == nil && len(slices.Compact(lanes)) == 3
		},
	},
}

func (j *job) workflow() *workflow { return &workflows[j.number%len(workflows)] }

func (j *job) key() string { return fmt.Sprintf("job-%06d", j.number) }

// check compares what became of a job with what it has to come to.
func (j *job) check(result wire.Result, history []wire.Invocation) (faults []error) {
	w := j.workflow()
	if result.Status != wire.SessionCompleted {
		faults = append(faults, fmt.Errorf("it is %s: %+v", result.Status, result.Error))
	}
	if len(result.Outputs) != 1 || !w.right(j.number, string(result.Outputs[0].Data)) {
		faults = append(faults, fmt.Errorf("its outputs are %s", outputsOf(result)))
	}
	faults = append(faults, checkFired(history, w.fires)...)
	for i, err := range faults {
		faults[i] = fmt.Errorf("%s %s, session %s: %w", w.name, j.key(), j.session, err)
	}
	return faults
}

func outputsOf(r wire.Result) []string {
	var all []string
	for _, o := range r.Outputs {
		all = append(all, string(o.Data))
	}
	return all
}

// jobs runs workflows of an app.
type jobs struct {
	urls []string
	app  spec.AppName
	// wait bounds how long a job may take, faults included.
	wait time.Duration

	mu     sync.Mutex
	all    []*job
	faults []error
}

// run starts jobs, workers of them at a time, until stop is closed, and waits for
// their ends.
func (j *jobs) run(workers int, pause time.Duration, stop <-chan struct{}) {
	var running sync.WaitGroup
	for n := range workers {
		running.Go(func() {
			s, err := nodetest.Dial(j.urls, n)
			if err != nil {
				j.fault(err)
				return
			}
			defer s.Close()
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause): // the load, not a wait for something
				}
				job := j.next()
				if err := j.runOne(s, job); err != nil {
					j.fault(fmt.Errorf("%s %s, session %q: %w", job.workflow().name, job.key(), job.session, err))
				}
			}
		})
	}
	running.Wait()
}

func (j *jobs) next() *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	job := &job{number: len(j.all)}
	j.all = append(j.all, job)
	return job
}

func (j *jobs) fault(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.faults = append(j.faults, err)
}

// resultWait is how long one node is asked for a result before another is.
const resultWait = 10 * time.Second

func (j *jobs) runOne(s *nodetest.Servers, job *job) error {
	ctx, cancel := context.WithTimeout(context.Background(), j.wait)
	defer cancel()
	w := job.workflow()
	// The idempotency key makes asking again safe, on another node, too.
	err := s.Until(ctx, func(ctx context.Context, c *client.Client) error {
		put, err := c.Put(ctx, j.app, w.bucket, spec.Key(job.key()), strings.NewReader(w.input(job.number)), client.PutOptions{IdempotencyKey: job.key()})
		if err == nil && job.session != "" && job.session != put.Session {
			return fmt.Errorf("asked again it is session %s", put.Session)
		}
		if err == nil {
			job.session = put.Session
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	err = s.UntilFor(ctx, resultWait, func(ctx context.Context, c *client.Client) (err error) {
		job.result, err = c.Result(ctx, j.app, job.session, client.ResultOptions{Wait: resultWait / 2})
		if err == nil && job.result.Status == wire.SessionRunning {
			return spec.Errorf(spec.CodeTimeout, "it is still running")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}

// verify looks at all jobs again once the cluster is sound, through one node after
// the other, and at what was counted across them.
func (j *jobs) verify(ctx context.Context) (counts map[string]int, faults []error) {
	counts = map[string]int{}
	faults = j.faults
	s, err := nodetest.Dial(j.urls, 0)
	if err != nil {
		return counts, append(faults, err)
	}
	defer s.Close()
	var given []string
	for _, job := range j.all {
		if job.session == "" || job.result.Status == wire.SessionRunning {
			continue // told among the faults
		}
		w := job.workflow()
		counts[w.name]++
		if w.counted {
			given = append(given, job.key())
		}
		c := s.Next()
		result, err := c.Result(ctx, j.app, job.session, client.ResultOptions{})
		var history wire.History
		if err == nil {
			history, err = c.History(ctx, j.app, job.session, client.HistoryOptions{})
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s %s, session %s, from %s: %w", w.name, job.key(), job.session, c.URL(), err))
			continue
		}
		if !slices.Equal(outputsOf(result), outputsOf(job.result)) {
			faults = append(faults, fmt.Errorf("%s %s, session %s: its outputs were %s and are %s at %s", w.name, job.key(), job.session, outputsOf(job.result), outputsOf(result), c.URL()))
		}
		faults = append(faults, job.check(result, history.Invocations)...)
	}
	for _, across := range []struct {
		function spec.FunctionName
		size     int
	}{{"tally", 10}, {"window", 0}} {
		firings, found := j.awaitCounted(ctx, s, across.function, given, across.size)
		counts[string(across.function)] = firings
		faults = append(faults, found...)
	}
	return counts, append(faults, j.quiet(ctx, s)...)
}

// awaitCounted waits until what a function was given across sessions is right, and
// returns what is wrong if it does not become so.
func (j *jobs) awaitCounted(ctx context.Context, s *nodetest.Servers, function spec.FunctionName, given []string, size int) (int, []error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	for {
		firings, err := j.counted(ctx, s.Next(), function)
		faults := checkCounted(string(function), given, firings, size)
		if err != nil {
			faults = []error{fmt.Errorf("sessions of %s: %w", function, err)}
		}
		if len(faults) == 0 {
			return len(firings), nil
		}
		select {
		case <-time.After(200 * time.Millisecond): // look again
		case <-ctx.Done():
			return len(firings), faults
		}
	}
}

// counted collects the outputs of the sessions of a function: lists of keys.
func (j *jobs) counted(ctx context.Context, c *client.Client, function spec.FunctionName) (firings [][]string, err error) {
	for s, err := range c.Sessions(ctx, j.app, client.SessionsOptions{Function: function, Status: wire.SessionCompleted}) {
		if err != nil {
			return firings, err
		}
		result, err := c.Result(ctx, j.app, s.Session, client.ResultOptions{})
		if err != nil {
			return firings, err
		}
		if len(result.Outputs) != 1 {
			return firings, fmt.Errorf("session %s has outputs %s", s.Session, outputsOf(result))
		}
		var keys []string
		if err := json.Unmarshal(result.Outputs[0].Data, &keys); err != nil {
			return firings, fmt.Errorf("output of session %s: %w", s.Session, err)
		}
		firings = append(firings, keys)
	}
	return firings, nil
}

// quiet waits until no session is running, and that none has failed.
func (j *jobs) quiet(ctx context.Context, s *nodetest.Servers) []error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	left := func() (err error) {
		c := s.Next()
		for _, status := range []wire.SessionStatus{wire.SessionRunning, wire.SessionFailed} {
			for session, e := range c.Sessions(ctx, j.app, client.SessionsOptions{Status: status}) {
				if e != nil {
					return e
				}
				err = errors.Join(err, fmt.Errorf("session %s is %s, and nobody waits for it", session.Session, session.Status))
			}
		}
		return err
	}
	for {
		err := left()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond): // look again
		case <-ctx.Done():
			return []error{err}
		}
	}
}
