// Package watchdog notices a disk that hangs: writes to it neither end nor fail. A
// node on such a disk still answers its peers' heartbeats from memory, so a shard
// that it leads stands still and nobody is elected in its place.
//
// One goroutine writes a few bytes and syncs them, every second or so unless
// somebody else has just synced something. Another counts the ticks of its clock while it
// waits for that, and tells when there were too many. Ticks are what it has seen
// itself, not the time that has passed: a process that was stopped, a machine that
// was suspended or a processor that is busy does not look like a disk that hangs.
//
// What it promises: Hung is called once for each hang, without anything of this
// package touching the disk; End ends the process even when its last words can't
// be written.
//
// Imports nothing of ours.
package watchdog
