//go:build !linux && !wasip1

package fn

// inheritedMemory returns nil: what the node shares is a thing of Linux.
func inheritedMemory() *memory { return nil }
