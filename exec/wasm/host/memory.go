package host

import (
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// reserved is the memory of an instance outside of the garbage collector's: it
// grows in place, without a copy, and is given back to the system with the
// instance.
type reserved struct {
	all  []byte // what it may grow to; not to be touched beyond have
	have uint64
}

// reserve implements experimental.MemoryAllocator.
func reserve(_, most uint64) experimental.LinearMemory {
	if most == 0 {
		return &reserved{}
	}
	all, err := unix.Mmap(-1, 0, int(most), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return &reserved{} // it can't grow, which fails whoever asked
	}
	return &reserved{all: all}
}

// Reallocate implements experimental.LinearMemory.
func (r *reserved) Reallocate(size uint64) []byte {
	if size > uint64(len(r.all)) {
		return nil
	}
	if size > r.have {
		if err := unix.Mprotect(r.all[r.have:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil
		}
		r.have = size
	}
	return r.all[:size:size]
}

// Free implements experimental.LinearMemory.
func (r *reserved) Free() {
	if r.all != nil {
		_ = unix.Munmap(r.all) // fails only for what is no mapping
		r.all = nil
	}
}
