package fn

import (
	"os"
	"syscall"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// inheritedMemory maps what the node shares with the program; nil if it shares
// nothing, or it can't be mapped: then everything travels on the socket.
func inheritedMemory() *memory {
	if os.Getenv(protocol.MemoryVariable) == "" {
		return nil
	}
	inputs := inheritedMapping(protocol.InputFD, syscall.PROT_READ)
	outputs := inheritedMapping(protocol.OutputFD, syscall.PROT_READ|syscall.PROT_WRITE)
	if inputs == nil || outputs == nil {
		return nil
	}
	return newMemory(inputs, outputs)
}

// inheritedMapping maps all of a descriptor and closes it: programs that a function
// starts have no business with it.
func inheritedMapping(fd int, protection int) []byte {
	defer func() { _ = syscall.Close(fd) }()
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil || stat.Size == 0 {
		return nil
	}
	b, err := syscall.Mmap(fd, 0, int(stat.Size), protection, syscall.MAP_SHARED)
	if err != nil {
		return nil
	}
	return b
}
