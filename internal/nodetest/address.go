package nodetest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Systems choose ports from 32768 on, some from 49152 on: for whoever listens at port
// 0, and for the near end of each connection.
const (
	portsFrom  = 10_000
	portsTo    = 30_000
	blockPorts = 500
)

// ports are those that this process gives out: a block of its own.
var ports struct {
	sync.Mutex
	claim net.Listener // at the first port of the block, for as long as the process lives
	first int
	given int
}

// FreeAddress returns an address of this machine at which nobody listens. It stays free
// for who was given it, also between one start and the next of what listens there: the
// system does not choose its port for others, and other processes that call FreeAddress
// are given others.
func FreeAddress(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.claim == nil {
		claimPorts(t)
	}
	for range blockPorts {
		at := ports.first + 1 + ports.given%(blockPorts-1)
		ports.given++
		if l, err := listen(at); err == nil {
			_ = l.Close()
			return l.Addr().String()
		}
	}
	t.Fatalf("none of the ports from %d on is free", ports.first)
	return ""
}

func claimPorts(t testing.TB) {
	t.Helper()
	for _, i := range rand.Perm((portsTo - portsFrom) / blockPorts) {
		first := portsFrom + i*blockPorts
		if l, err := listen(first); err == nil {
			ports.claim, ports.first = l, first
			return
		}
	}
	t.Fatalf("no %d ports from %d to %d are free", blockPorts, portsFrom, portsTo)
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
