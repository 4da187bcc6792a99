package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// server is the node that is measured: in a process of its own, or in this one
// for functions of runtime inproc.
type server struct {
	url     string
	process *exec.Cmd
	node    *node.Node
	http    *fasthttp.Client
	ready   time.Duration // from the start of the process to the ready line
}

// startProcess starts the real binary.
func startProcess(o options, binary, name string) (*server, error) {
	data := filepath.Join(o.dir, "data-"+name)
	cmd := exec.Command(binary, "dev", "--data", data, "--random-port", "--shards", strconv.Itoa(o.shards), "-o", "json")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the node did not get ready: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	s := &server{process: cmd, http: newHTTP(), ready: time.Since(began)}
	var said struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(line, &said); err != nil {
		return nil, errors.Join(fmt.Errorf("the node's ready line %q: %w", line, err), s.stop())
	}
	s.url = said.URL
	return s, nil
}

// startInproc starts a node in this process.
func startInproc(o options) (*server, error) {
	n, err := node.Start(context.Background(), node.Config{
		DataDir: filepath.Join(o.dir, "data-inproc"), Listen: "127.0.0.1:0", Shards: o.shards, Inproc: inprocFunctions(),
	})
	if err != nil {
		return nil, err
	}
	return &server{url: n.URL(), node: n, http: newHTTP()}, nil
}

func newHTTP() *fasthttp.Client {
	return &fasthttp.Client{MaxConnsPerHost: 256, ReadTimeout: time.Minute, MaxResponseBodySize: 512 << 20}
}

func (s *server) stop() error {
	if s.node != nil {
		return s.node.Close()
	}
	_ = s.process.Process.Signal(syscall.SIGINT)
	return s.process.Wait()
}

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
	req.SetRequestURI(s.url + path)
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

// pids lists the node and its executors; none for a node in this process.
func (s *server) pids() []int {
	if s.process == nil {
		return nil
	}
	root := s.process.Process.Pid
	pids := []int{root}
	folders, _ := os.ReadDir("/proc")
	for _, f := range folders {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		if fields := statFields(pid); len(fields) > 1 && fields[1] == strconv.Itoa(root) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// statFields are the fields of /proc/PID/stat from the state on.
func statFields(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	return strings.Fields(after)
}

// cpu is the processor time that the node and its executors have used.
func (s *server) cpu() time.Duration {
	var ticks int
	for _, pid := range s.pids() {
		if f := statFields(pid); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			ticks += user + system
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory returns a line of the node's /proc/PID/status in MiB: VmRSS or VmHWM.
func (s *server) memory(line string) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
