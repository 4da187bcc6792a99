package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

const maxEventBytes = 4 << 20

var errEventTooLarge = errors.New("an event is larger than 4 MiB")

// event is one server-sent event.
type event struct {
	id   string
	kind string // of its "event" field; "" for a message
	data []byte
}

// eventReader reads a stream of server-sent events.
type eventReader struct{ lines *bufio.Scanner }

func newEventReader(r io.Reader) *eventReader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 16<<10), maxEventBytes)
	return &eventReader{lines: lines}
}

// next returns the next event that has an id or data; io.EOF at the end.
func (r *eventReader) next() (event, error) {
	var e event
	var size int
	for r.lines.Scan() {
		line := r.lines.Bytes()
		if len(line) == 0 {
			if e.id != "" || e.data != nil {
				return e, nil
			}
			e = event{}
			continue
		}
		if size += len(line); size > maxEventBytes {
			return event{}, errEventTooLarge
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) { // "" is a comment: the server's sign of life
		case "id":
			if id := string(value); !strings.ContainsRune(id, 0) {
				e.id = id
			}
		case "event":
			e.kind = string(value)
		case "data":
			if e.data != nil {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, value...)
			if e.data == nil {
				e.data = []byte{}
			}
		}
	}
	if err := r.lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = errEventTooLarge
		}
		return event{}, err
	}
	return event{}, io.EOF
}
