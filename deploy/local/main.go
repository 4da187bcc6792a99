// Command local runs a cluster on this machine, in one terminal: real nodes on
// loopback, each with a data folder of its own. It takes commands, as "kill n2" and
// "start n2", so that one can see what a cluster makes of it, and ends all nodes on
// Ctrl-C.
//
//	go run ./deploy/local -binary bin/pheromone -data /tmp/my-cluster
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	var c config
	flag.StringVar(&c.binary, "binary", "bin/pheromone", "the pheromone binary")
	flag.StringVar(&c.data, "data", "", "folder that keeps the nodes' data (default: a temporary one, removed at the end)")
	flag.IntVar(&c.nodes, "nodes", 3, "how many nodes, 1 to 9")
	flag.IntVar(&c.port, "port", 7070, "port of the first node's API; the others follow, and 100 above them are those for other nodes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	binary, data string
	nodes, port  int
}

// run runs the cluster until ctx ends.
func run(ctx context.Context, cfg config, in io.Reader, out io.Writer) (err error) {
	if cfg.nodes < 1 || cfg.nodes > 9 {
		return errors.New("-nodes must be 1 to 9")
	}
	if cfg.data == "" {
		if cfg.data, err = os.MkdirTemp("", "pheromone-cluster-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(cfg.data)) }()
	}
	c := newCluster(cfg, out)
	defer c.stop()
	for _, n := range c.nodes {
		if err := c.start(n); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := n.awaitReady(ctx); err != nil {
			return err
		}
	}
	c.say("%d nodes are ready, with their data in %s. In another terminal:\n\n  export PHEROMONE_SERVER=%s\n  %s cluster status\n\n%s", len(c.nodes), cfg.data, c.urls(), cfg.binary, usage)
	lines := make(chan string) // one command at a time
	go func() {
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			c.say("stopping")
			return nil
		case line := <-lines:
			if err := c.command(line); err != nil {
				c.say("%v", err)
			}
		}
	}
}

const usage = "Here: kill n2 (without warning), stop n2, start n2, pause n2, resume n2; Ctrl-C ends all."

var errUsage = errors.New("not a command: type one of kill, stop, start, pause, resume, and a node")

// command does what somebody typed.
func (c *cluster) command(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	var n *node
	for _, candidate := range c.nodes {
		if len(words) == 2 && candidate.name == words[1] {
			n = candidate
		}
	}
	if n == nil {
		return errUsage
	}
	switch words[0] {
	case "kill":
		return n.signal(syscall.SIGKILL)
	case "stop":
		return n.signal(syscall.SIGTERM)
	case "pause":
		return n.signal(syscall.SIGSTOP)
	case "resume":
		return n.signal(syscall.SIGCONT)
	case "start":
		return c.start(n)
	}
	return errUsage
}
