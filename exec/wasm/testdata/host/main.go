// Command host hosts a module. The tests build it without the race detector,
// which would make the compilation of a Go program take minutes.
package main

import (
	"os"

	"github.com/pheromone-run/pheromone/exec/wasm/host"
)

func main() { os.Exit(host.Main(os.Args[1:])) }
