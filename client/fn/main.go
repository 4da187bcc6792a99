//go:build !wasip1

package fn

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// Main runs the registered functions for the node that started the program, and
// ends the program when the node lets it go.
func Main() {
	if os.Getenv("PHEROMONE_EXECUTOR") == "" {
		fmt.Fprintln(os.Stderr, "this program holds pheromone functions: name it as the command of a function in a manifest and deploy it with: pheromone dev MANIFEST, or: pheromone apply -f MANIFEST")
		os.Exit(2)
	}
	if err := serveInherited(); err != nil {
		fmt.Fprintln(os.Stderr, "pheromone:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveInherited() error {
	// Programs that a function starts must not keep the connection open.
	syscall.CloseOnExec(protocol.FD)
	file := os.NewFile(protocol.FD, "pheromone")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("descriptor %d is not the node's socket: %w", protocol.FD, err)
	}
	_ = file.Close()
	return serve(context.Background(), conn, inheritedMemory())
}
