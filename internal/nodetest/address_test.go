package nodetest_test

import (
	"net"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
)

func TestAFreeAddressIsOneAtWhichNobodyListens(t *testing.T) {
	before := map[string]bool{}
	for i := range 1000 { // more than there are ports to give out
		address := nodetest.FreeAddress(t)
		if before[address] && i < 400 {
			t.Fatalf("%s is given again", address)
		}
		before[address] = true
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 { // some stay in use
			t.Cleanup(func() { _ = l.Close() })
		} else {
			_ = l.Close()
		}
	}
}
