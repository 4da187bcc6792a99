package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/pheromone-run/pheromone/bench/report"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// Workload G: a chain of four functions that work 100 ms each; one attempt in a
// hundred hangs: it never answers and puts nothing. Whoever runs it again waits
// twice the time that the work takes by itself: a rule for the function, a client
// for the whole workflow.
const (
	failureSessions  = 4000
	failureClients   = 64
	functionPatience = 200 * time.Millisecond
	workflowPatience = 800 * time.Millisecond
)

// failures runs the chain under re-execution rules, and then without them.
func failures(ctx context.Context, o options, r *recorder, binary string) (err error) {
	s, err := startProcess(o, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, app := range []string{"ruled", "plain"} {
		if err := s.deployText(ctx, o, binary, app, failureManifest(app)); err != nil {
			return err
		}
	}
	byRules := func() (int, error) {
		_, err := s.call("POST", "/v1/apps/ruled/functions/step0/invoke?wait=1m", []byte("x"))
		return 0, err
	}
	for _, run := range []func() (int, error){byRules, s.untilDone} { // until its executors are there
		if _, _, err := s.chains(2*failureClients, run); err != nil {
			return err
		}
	}
	ruled, _, err := s.chains(failureSessions, byRules)
	if err != nil {
		return err
	}
	plain, again, err := s.chains(failureSessions, s.untilDone)
	if err != nil {
		return err
	}
	byRule := report.Timed("G", "go", "4 × 100 ms, 1 % hang, rerun by rule", ruled)
	whole := report.Timed("G", "go", "the same, the whole workflow run again", plain)
	r.add(byRule)
	r.add(whole)
	r.add(figure{Workload: "G", What: "workflows that were run again", N: again, Value: 100 * float64(again) / float64(len(plain)), Unit: "%"})
	r.add(figure{Workload: "G", What: "p99, whole workflow to rule", Value: whole.P99 / byRule.P99, Unit: "times"})
	return nil
}

func failureManifest(app string) string {
	how := "runtime: process, command: [./functions], timeout: 1m, retry: {max_attempts: 1}"
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: pheromone/v1\napp: %s\nretention: 10s\nfunctions:\n", app)
	for i := range 4 {
		fmt.Fprintf(&b, "  step%d: {%s}\n", i, how)
	}
	fmt.Fprintf(&b, "  finish: {%s}\nbuckets:\n", how)
	for i := range 4 {
		target, rule := fmt.Sprint("step", i+1), ""
		if i == 3 {
			target = "finish"
		}
		if app == "ruled" {
			rule = fmt.Sprintf(", rerun: [{source: step%d, timeout: %s, max: 10}]", i, functionPatience)
		}
		fmt.Fprintf(&b, "  after%d: {triggers: [{name: next, primitive: immediate, target: %s%s}]}\n", i, target, rule)
	}
	return b.String()
}

// chains runs sessions from many clients and returns how long each took, and how
// often one was run again.
func (s *server) chains(sessions int64, run func() (again int, err error)) (took []time.Duration, again int, err error) {
	var mu sync.Mutex
	var left atomic.Int64
	var running sync.WaitGroup
	left.Store(sessions)
	for range failureClients {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				began := time.Now()
				n, failed := run()
				mu.Lock()
				took, again = append(took, time.Since(began)), again+n
				err = errors.Join(err, failed)
				mu.Unlock()
				if failed != nil {
					return
				}
			}
		})
	}
	running.Wait()
	return took, again, err
}

// untilDone runs the whole workflow until it ends within the client's patience.
func (s *server) untilDone() (again int, err error) {
	for ; ; again++ {
		status, session, body, err := s.send("POST", "/v1/apps/plain/functions/step0/invoke?wait="+workflowPatience.String(), []byte("x"))
		switch {
		case err != nil:
			return again, err
		case status < 300:
			return again, nil
		case status != fasthttp.StatusGatewayTimeout:
			return again, fmt.Errorf("invoke: status %d: %s", status, body)
		}
		if _, err := s.call("POST", "/v1/apps/plain/sessions/"+session+"/cancel", nil); err != nil {
			return again, err
		}
	}
}

// send is call for answers that need not be a success.
func (s *server) send(method, path string, body []byte) (status int, session string, answer []byte, err error) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	req.SetRequestURI(s.url() + path)
	req.Header.SetContentType("application/octet-stream")
	req.SetBodyRaw(body)
	if err := s.http.Do(req, resp); err != nil {
		return 0, "", nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return resp.StatusCode(), string(resp.Header.Peek(wire.HeaderSession)), append([]byte(nil), resp.Body()...), nil
}

// cluster asks the node how it is.
func (s *server) cluster() (c wire.Cluster, err error) {
	body, err := s.call("GET", "/v1/cluster", nil)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(body, &c)
}
