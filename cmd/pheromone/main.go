// Command pheromone is the one binary of Pheromone: a node, and the command line
// that talks to nodes.
package main

import (
	"os"

	"github.com/pheromone-run/pheromone/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.System(startNode)))
}
