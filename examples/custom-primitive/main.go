// Command custom-primitive embeds a node that has a primitive of its own,
// example.debounce: however often a document is saved, it is indexed once its
// author pauses. It saves two documents several times, prints what is indexed,
// and ends; with -serve it stays up for others to put documents.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	_ "github.com/pheromone-run/pheromone/examples/custom-primitive/debounce" // registers the primitive
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
)

//go:embed app.yaml
var manifest []byte

func main() {
	data := flag.String("data", "", "folder that keeps the data; empty for a temporary one")
	listen := flag.String("listen", "127.0.0.1:0", "address of the API")
	serve := flag.Bool("serve", false, "stay up until interrupted, and save nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *data, *listen, *serve, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "custom-primitive:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, data, listen string, serve bool, out io.Writer) (err error) {
	if data == "" {
		if data, err = os.MkdirTemp("", "pheromone-custom-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	}
	indexed := make(chan string, 16)
	n, err := start(ctx, data, listen, func(document string) {
		select {
		case indexed <- document:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if serve {
		fmt.Fprintln(out, "ready at", n.URL())
		return report(ctx, out, indexed, nil)
	}
	c, err := client.New(n.URL())
	if err != nil {
		return err
	}
	for _, draft := range []string{"poem: O", "essay: On", "poem: O wild", "essay: On nature", "poem: O wild west wind"} {
		name, text, _ := strings.Cut(draft, ": ")
		fmt.Fprintln(out, "saved  ", draft)
		if _, err := c.Put(ctx, "search", "drafts", spec.Key(name), strings.NewReader(text), client.PutOptions{}); err != nil {
			return err
		}
	}
	return report(ctx, out, indexed, map[string]bool{"essay: On nature": true, "poem: O wild west wind": true})
}

// report prints what is indexed until all that is awaited was, or ctx ends.
func report(ctx context.Context, out io.Writer, indexed <-chan string, awaited map[string]bool) error {
	serving := len(awaited) == 0
	for serving || len(awaited) > 0 {
		select {
		case document := <-indexed:
			fmt.Fprintln(out, "indexed", document)
			delete(awaited, document)
		case <-ctx.Done():
			if serving {
				return nil
			}
			return ctx.Err()
		}
	}
	return nil
}

// start starts a node with the app. index is told of each document.
func start(ctx context.Context, data, listen string, index func(document string)) (*node.Node, error) {
	functions := inproc.New(inproc.Settings{})
	functions.Register("search", "index", func(c *fn.Context, in []fn.Object) error {
		document := in[0]
		index(document.Key + ": " + string(document.Bytes()))
		return c.Output(document.Bytes())
	})
	n, err := node.Start(ctx, node.Config{DataDir: data, Listen: listen, Inproc: functions})
	if err != nil {
		return nil, err
	}
	c, err := client.New(n.URL())
	if err == nil {
		_, err = c.Apply(ctx, "search", manifest, client.ApplyOptions{})
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}
