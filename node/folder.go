package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/pheromone-run/pheromone/spec"
)

// The folders in a node's data folder.
const (
	storeFolder     = "store"
	controlFolder   = "control"
	raftFolder      = "raft"
	artifactsFolder = "artifacts"
	logsFolder      = "logs"
	scratchFolder   = "scratch"
	modulesFolder   = "modules"        // compiled
	hostsFolder     = "module-scratch" // of the processes that host them
	// diskFile is written over and over to see whether the disk answers.
	diskFile = "disk-watch"
)

var dataFolders = []string{storeFolder, controlFolder, raftFolder, artifactsFolder, logsFolder, scratchFolder, modulesFolder, hostsFolder, diskFile}

// refuseForeign refuses a data folder that is somebody else's, before anything is
// written into it: a home folder, say, that was named by mistake.
func refuseForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the data folder: %w", err)
	}
	foreign := ""
	for _, e := range entries {
		switch {
		case e.Name() == storeFolder:
			return nil // the store looks at itself
		case foreign == "" && e.Name() != "lost+found" && !slices.Contains(dataFolders, e.Name()):
			foreign = e.Name()
		}
	}
	if foreign != "" {
		return spec.Errorf(spec.CodeInvalid, "the data folder %s is not empty and not a node's: it has %q and no %q", dir, foreign, storeFolder).
			WithHint("name an empty folder, or the one that this node used before")
	}
	return nil
}
