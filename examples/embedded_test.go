package examples_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/node"
)

// A Go program can hold a whole node, and functions that run inside it.
func Example_embedded() {
	data, err := os.MkdirTemp("", "pheromone-embedded-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(data)

	functions := inproc.New(inproc.Settings{})
	functions.Register("hello", "greet", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output([]byte("Hello, " + string(in[0].Bytes()) + "!"))
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, err := node.Start(ctx, node.Config{DataDir: data, Listen: "127.0.0.1:0", Inproc: functions})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close()

	c, err := client.New(n.URL())
	if err != nil {
		log.Fatal(err)
	}
	manifest := []byte(`
apiVersion: pheromone/v1
app: hello
functions:
  greet: {runtime: inproc}
`)
	if _, err := c.Apply(ctx, "hello", manifest, client.ApplyOptions{}); err != nil {
		log.Fatal(err)
	}
	result, err := c.Invoke(ctx, "hello", "greet", strings.NewReader("Ada"), client.InvokeOptions{Wait: client.Forever})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", result.Outputs[0].Data)
	// Output: Hello, Ada!
}
