package node

import (
	"os"
	"time"

	"github.com/pheromone-run/pheromone/internal/watchdog"
	"github.com/pheromone-run/pheromone/spec"
)

// aloneEvery is how often the disk of a node alone is asked: it has nobody to make
// room for, and an idle disk may rest.
const aloneEvery = 5 * time.Second

// watchDisk watches the disk under the data folder. A node of a cluster whose disk
// hangs ends itself: it would go on to answer heartbeats, and its shards would stand
// still under it. A node alone says that it is not ready, and goes on when it can.
func (n *Node) watchDisk(clustered bool) {
	if n.cfg.DiskTimeout < 0 {
		return
	}
	cfg := watchdog.Config{
		Disk: watchdog.At(n.path(diskFile)), Name: n.cfg.DataDir, Bound: n.cfg.DiskTimeout, Synced: n.db.Synced,
		// The log may be on the disk that hangs.
		Hung:     func(err error) { go n.cfg.Log.Error("the node is not ready", "reason", err) },
		Answered: func(after time.Duration) { go n.cfg.Log.Warn("the disk answers again", "after", after) },
	}
	if clustered {
		cfg.Hung = n.endWithDisk
	} else {
		cfg.Every = aloneEvery
	}
	n.disk = watchdog.Start(cfg)
}

// endWithDisk ends the process without the disk.
func (n *Node) endWithDisk(err error) {
	err = spec.Errorf(spec.CodeUnavailable, "%w: this node ends, so that others take over its shards", err).
		WithHint("check the disk and the kernel's log, then start the node again")
	n.failed.CompareAndSwap(nil, &err)
	if n.cfg.Fatal != nil {
		n.cfg.Fatal(err)
		return
	}
	watchdog.End(func() { n.cfg.Log.Error("the node can't go on and ends itself", "reason", err) }, os.Exit)
}

// diskErr returns an error while the disk does not answer.
func (n *Node) diskErr() error {
	if n.disk == nil {
		return nil
	}
	if err := n.disk.Err(); err != nil {
		return spec.Errorf(spec.CodeUnavailable, "%w", err)
	}
	return nil
}
