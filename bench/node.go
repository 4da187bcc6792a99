package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// server is what is measured: a node in a process of its own, several of them that
// are one cluster, or a node in this process for functions of runtime inproc.
type server struct {
	urls      []string // requests go to them in turn
	next      atomic.Uint64
	processes []*process
	node      *node.Node
	http      *fasthttp.Client
	data      string        // folder, gone once the server has stopped
	ready     time.Duration // from the start of the process to the ready line
}

// process is a node's process, which may be started again.
type process struct {
	binary string
	args   []string
	cmd    *exec.Cmd
	out    *bufio.Reader
	log    string // file for what it says; empty: it says it here
}

func (p *process) start() error {
	p.cmd = exec.Command(p.binary, p.args...)
	p.cmd.Stderr = os.Stderr
	if p.log != "" {
		log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer func() { _ = log.Close() }() // the process has its own
		p.cmd.Stderr = log
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.out = bufio.NewReader(out)
	return p.cmd.Start()
}

// url waits for the line that says that the node is ready, and where.
func (p *process) url() (string, error) {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		log, _ := os.ReadFile(p.log)
		return "", fmt.Errorf("the node did not get ready: %w\n%s", err, log[max(0, len(log)-4096):])
	}
	var said struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(line, &said); err != nil {
		return "", fmt.Errorf("the node's ready line %q: %w", line, err)
	}
	return said.URL, nil
}

// kill ends the process as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it says that it was killed
}

// startProcess starts the real binary.
func startProcess(o options, binary string) (*server, error) {
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return nil, err
	}
	p := &process{binary: binary, args: []string{
		"dev", "--data", data, "--random-port", "--shards", strconv.Itoa(o.shards), "--shared-memory", o.shared, "-o", "json",
	}}
	began := time.Now()
	if err := p.start(); err != nil {
		return nil, err
	}
	url, err := p.url()
	if err != nil {
		p.kill()
		return nil, err
	}
	return &server{urls: []string{url}, processes: []*process{p}, http: newHTTP(), data: data, ready: time.Since(began)}, nil
}

// startCluster starts nodes n1, n2, … that form a cluster.
func startCluster(o options, binary string, nodes int) (s *server, err error) {
	data, err := os.MkdirTemp(o.dir, "cluster-")
	if err != nil {
		return nil, err
	}
	var peers []string
	for range nodes {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		peers = append(peers, address)
	}
	s = &server{http: newHTTP(), data: data}
	defer func() {
		if err != nil {
			for _, p := range s.processes {
				p.kill()
			}
		}
	}()
	for i, peer := range peers {
		api, err := freeAddress() // it is the same after a restart
		if err != nil {
			return nil, err
		}
		name := fmt.Sprint("n", i+1)
		p := &process{binary: binary, log: filepath.Join(data, name+".log"), args: []string{
			"serve", "--name", name, "--data", filepath.Join(data, name), "--listen", api, "--peer-listen", peer, "--log-level", "error",
			"--bootstrap-expect", strconv.Itoa(nodes), "--join", strings.Join(peers, ","), "--shards", strconv.Itoa(o.shards), "--shared-memory", o.shared, "-o", "json",
		}}
		if err := p.start(); err != nil {
			return nil, err
		}
		s.processes = append(s.processes, p)
	}
	for _, p := range s.processes {
		url, err := p.url()
		if err != nil {
			return nil, err
		}
		s.urls = append(s.urls, url)
	}
	return s, s.settled(nodes)
}

// settled waits until all nodes are there and every shard has a leader and all of
// its replicas. It asks the nodes in turn: one without a replica may know no leader.
func (s *server) settled(nodes int) error {
	led := map[spec.ShardID]bool{}
	var c wire.Cluster
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		if c, err = s.cluster(); err != nil || len(c.Nodes) < nodes {
			continue
		}
		whole := !slices.ContainsFunc(c.Nodes, func(n wire.Node) bool { return !n.Live })
		for _, shard := range c.Shards {
			led[shard.Shard] = led[shard.Shard] || shard.Leader != ""
			joining := slices.ContainsFunc(shard.Replicas, func(r wire.Replica) bool { return r.Joining })
			whole = whole && led[shard.Shard] && !joining && len(shard.Replicas) == min(nodes, replicas)
		}
		if whole {
			return nil
		}
	}
	return fmt.Errorf("the cluster is not whole after a minute: %+v", c)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startInproc starts a node in this process.
func startInproc(o options) (*server, error) {
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return nil, err
	}
	n, err := node.Start(context.Background(), node.Config{
		DataDir: data, Listen: "127.0.0.1:0", Shards: o.shards, Inproc: inprocFunctions(),
	})
	if err != nil {
		return nil, err
	}
	return &server{urls: []string{n.URL()}, node: n, http: newHTTP(), data: data}, nil
}

func newHTTP() *fasthttp.Client {
	return &fasthttp.Client{MaxConnsPerHost: 256, ReadTimeout: time.Minute, MaxResponseBodySize: 512 << 20}
}

// stop ends all nodes, at the same time as none waits for the others.
func (s *server) stop() (err error) {
	if s.node != nil {
		err = s.node.Close()
	}
	for _, p := range s.processes {
		_ = p.cmd.Process.Signal(syscall.SIGINT)
	}
	for _, p := range s.processes {
		err = errors.Join(err, p.cmd.Wait())
	}
	return errors.Join(err, os.RemoveAll(s.data))
}

// url is the node whose turn it is.
func (s *server) url() string { return s.urls[s.next.Add(1)%uint64(len(s.urls))] }

// call sends a request and returns the answer's body; anything but a success is
// an error.
func (s *server) call(method, path string, body []byte) ([]byte, error) {
	return s.callWith(method, path, "", body)
}

// callWith is call with an idempotency key, unless that is empty.
func (s *server) callWith(method, path, key string, body []byte) ([]byte, error) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	req.SetRequestURI(s.url() + path)
	if key != "" {
		req.Header.Set(wire.HeaderIdempotencyKey, key)
	}
	if body != nil {
		req.Header.SetContentType("application/octet-stream")
		req.SetBodyRaw(body)
	}
	if err := s.http.Do(req, resp); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if code := resp.StatusCode(); code >= 300 {
		return nil, fmt.Errorf("%s %s: status %d: %s", method, path, code, resp.Body())
	}
	return append([]byte(nil), resp.Body()...), nil
}

func (s *server) invoke(function string, input []byte) ([]byte, error) {
	return s.call("POST", "/v1/apps/bench/functions/"+function+"/invoke?wait=1m", input)
}
