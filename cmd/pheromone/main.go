// Command pheromone is the one binary of Pheromone: a node, and the command line
// that talks to nodes.
package main

import (
	"os"

	"github.com/pheromone-run/pheromone/exec/wasm"
	"github.com/pheromone-run/pheromone/internal/cli"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == wasm.HostArg { // a node has started itself again
		os.Exit(wasm.Host(os.Args[2:]))
	}
	os.Exit(cli.Main(os.Args[1:], cli.System(startNode)))
}
