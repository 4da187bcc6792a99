package fn

import (
	"context"
	"net"
)

// Serve runs the registered functions over conn until the node says goodbye or
// ctx ends. Most programs call Main.
func Serve(ctx context.Context, conn net.Conn) error {
	return serve(ctx, conn, nil)
}

func serve(ctx context.Context, conn net.Conn, m *memory) error {
	names, handlers := registered()
	c := newConnection(ctx, conn, m, names, handlers)
	defer c.close()
	if err := c.hello(); err != nil {
		return err
	}
	return c.serve()
}
