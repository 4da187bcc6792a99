package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// system is a peer with the workloads' functions and a client on it.
type system interface {
	// run starts a session at a function and waits for its result.
	run(ctx context.Context, function string, input []byte) (string, error)
	put(ctx context.Context, key string, value []byte) error
	get(ctx context.Context, key string) error
	// watch tells of each put of a key, from now on.
	watch(ctx context.Context, key string) (<-chan struct{}, error)
	close() error
}

// The functions that sessions start at.
const (
	chainFunction = "chain" // ten no-ops, one after the other
	fanFunction   = "fan"   // 16 no-ops and a join of what they put
	passFunction  = "pass"  // makes as many bytes as its input says, for another one to read
)

const (
	chainLength = 10
	fanWidth    = 16
)

var systems = map[string]func(ctx context.Context, dir string) (system, error){
	"etcd":         startEtcd,
	"nats":         func(ctx context.Context, dir string) (system, error) { return startNATS(ctx, dir, true) },
	"nats-default": func(ctx context.Context, dir string) (system, error) { return startNATS(ctx, dir, false) },
}

func main() {
	name := flag.String("system", "etcd", "etcd, nats or nats-default")
	only := flag.String("only", "A,B,C,D,E,K", "workloads to run")
	span := flag.Duration("span", 2*time.Second, "how long each figure is measured")
	dir := flag.String("dir", "", "folder for data; default: a temporary one")
	flag.Parse()
	if err := measure(*name, strings.Split(*only, ","), *span, *dir); err != nil {
		fmt.Fprintf(os.Stderr, "peers: %s: %v\n", *name, err)
		os.Exit(1)
	}
}

func measure(name string, only []string, span time.Duration, parent string) (err error) {
	start := systems[name]
	if start == nil {
		return fmt.Errorf("there is no system %q", name)
	}
	dir, err := os.MkdirTemp(parent, "peer-"+name+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	s, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	b := &bench{system: s, name: name, span: span}
	if slices.Contains(only, "E") {
		b.add(timed("E", "start to ready", []time.Duration{time.Since(began)}))
	}
	if err := b.all(ctx, only); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(b.figures)
}
