package host

import (
	"bytes"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// tailBytes is how much of the last output is kept for the failure of a crash.
const tailBytes = 4 << 10

// lines passes on what a module prints, line by line, as the log of its attempt.
// It is used by the instance's goroutine alone.
type lines struct {
	i      *instance
	stream uint32
	part   []byte // of a line that has not ended
	last   []byte // the end of all, at most tailBytes
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.last = append(l.last, b[max(0, len(b)-tailBytes):]...)
	if over := len(l.last) - tailBytes; over > 0 {
		l.last = append(l.last[:0], l.last[over:]...)
	}
	for rest := b; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		n := end + 1
		if end < 0 {
			end, n = len(rest), len(rest)
		}
		room := protocol.MaxLogBytes - len(l.part)
		if end > room {
			end, n = room, room
		}
		l.part = append(l.part, rest[:end]...)
		if n > end || len(l.part) == protocol.MaxLogBytes {
			l.pass()
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// flush passes on a line that has not ended.
func (l *lines) flush() {
	if len(l.part) > 0 {
		l.pass()
	}
}

func (l *lines) pass() {
	l.i.h.mu.Lock()
	id, welcome := l.i.attempt, l.i.h.mu.welcome != nil
	l.i.h.mu.Unlock()
	if welcome { // HELLO is the first frame; what comes before it is in the tail
		l.i.h.write(frame(protocol.Header{Type: protocol.Log, ID: id, Arg: l.stream}, nil, l.part))
	}
	l.part = l.part[:0]
}

func (l *lines) tail() string { return string(bytes.ToValidUTF8(l.last, []byte("\uFFFD"))) }
