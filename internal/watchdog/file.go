package watchdog

import (
	"encoding/binary"
	"errors"
	"os"
	"time"
)

// File is a Disk: a file of a few bytes that are written over and over, so that it
// needs no room on a disk that is full.
type File struct {
	path  string
	count uint64
}

// At returns a File with a path on the disk that is to be watched. It is made when
// it is first touched.
func At(path string) *File { return &File{path: path} }

// Touch implements Disk.
func (f *File) Touch() error {
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.count++
	_, err = file.WriteAt(binary.BigEndian.AppendUint64(nil, f.count), 0)
	return errors.Join(err, file.Sync(), file.Close())
}

// lastWords bounds how long the reason may take to be written: where it goes may
// be on the disk that hangs.
const lastWords = time.Second

// End says why, and ends the process with status 1 whether that could be said or
// not.
func End(say func(), exit func(status int)) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		say()
	}()
	select {
	case <-said:
	case <-time.After(lastWords):
	}
	exit(1)
}
