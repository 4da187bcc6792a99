//go:build !wasip1

package fn

import "net"

// begin runs an attempt on a goroutine of its own.
func (c *connection) begin(a *attempt, h Handler, in []Object) {
	go func() { _ = a.run(h, in) }() // finish has told the node of the error
}

// readUntil has nothing to do: serve reads.
func (c *connection) readUntil(chan getReply) error { return nil }

// poll has nothing to do: serve reads.
func (c *connection) poll() {}

func (c *connection) writeParts(parts [][]byte) error {
	if len(parts) == 1 {
		_, err := c.conn.Write(parts[0])
		return err
	}
	buffers := net.Buffers(parts)
	_, err := buffers.WriteTo(c.conn)
	return err
}
