package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/valyala/fasthttp"
)

// locality runs chains, fan-outs and sessions that pass 1 MiB on a cluster that has
// more nodes than a shard has replicas, and tells how many attempts read all of
// their inputs on the node that ran them.
func locality(o options, r *recorder, s *server) error {
	before, err := s.ran()
	if err != nil {
		return err
	}
	small := bytes.Repeat([]byte("x"), 100)
	var n atomic.Int64
	_, _, _, err = loaded(o.span, 64, s, func() error {
		var err error
		switch n.Add(1) % 8 {
		case 0:
			_, err = s.invoke("make", []byte(strconv.Itoa(1<<20)))
		case 1, 2:
			_, err = s.invoke("fan", small)
		default:
			_, err = s.invoke("f0", small)
		}
		return err
	})
	if err != nil {
		return err
	}
	after, err := s.ran()
	if err != nil {
		return err
	}
	share := func(part, all float64) float64 { return 100 * part / max(all, 1) }
	all := after.all() - before.all()
	for _, f := range []figure{
		{What: "attempts that read all of their inputs on the spot", Value: share(after.local-before.local, all)},
		{What: "attempts on the leader's node", Value: share(after.on["leader"]-before.on["leader"], all)},
		{What: "attempts on another node with a replica", Value: share(after.on["replica"]-before.on["replica"], all)},
		{What: "attempts on a node without", Value: share(after.on["other"]-before.on["other"], all)},
	} {
		f.Workload, f.Runtime, f.Unit, f.N = "L", o.runtimes[0], "%", int(all)
		f.Setup = fmt.Sprintf("%d nodes, %d replicas", localityNodes, replicas)
		r.add(f)
	}
	return nil
}

// attempts is where the cluster's attempts ran so far.
type attempts struct {
	on    map[string]float64
	local float64 // all inputs were there
}

func (a attempts) all() (n float64) {
	for _, on := range a.on {
		n += on
	}
	return n
}

// ran adds up what the nodes' metrics say of attempts.
func (s *server) ran() (attempts, error) {
	a := attempts{on: map[string]float64{}}
	for _, url := range s.urls {
		status, body, err := fasthttp.Get(nil, url+"/metrics")
		if err == nil && status != fasthttp.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		if err == nil {
			err = a.read(body)
		}
		if err != nil {
			return a, fmt.Errorf("metrics of %s: %w", url, err)
		}
	}
	return a, nil
}

// read adds a node's metrics.
func (a *attempts) read(metrics []byte) error {
	seen := false
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		on, ran := strings.CutPrefix(name, `pheromone_attempts_total{on="`)
		if !ran && name != "pheromone_attempts_inputs_local_total" {
			continue
		}
		seen = true
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return err
		}
		if ran {
			a.on[strings.TrimSuffix(on, `"}`)] += n
		} else {
			a.local += n
		}
	}
	if !seen {
		return errors.New("they say nothing of attempts")
	}
	return lines.Err()
}
