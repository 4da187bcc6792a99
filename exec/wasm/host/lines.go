package host

import (
	"bytes"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// endBytes is how much is kept, of the beginning and of the end each, of what an
// attempt prints, for the failure of a crash: a Go program says first why it ends.
const endBytes = 4 << 10

// lines passes on what a module prints, line by line, as the log of its attempt.
// It is used by the instance's goroutine alone.
type lines struct {
	i      *instance
	stream uint32
	part   []byte // of a line that has not ended
	first  []byte // the beginning of all since reset, at most endBytes
	last   []byte // the end of what follows it, as much
	cut    bool   // there was more in between
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.keep(b)
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
	if welcome { // HELLO is the first frame; what comes before it is kept
		l.i.h.write(frame(protocol.Header{Type: protocol.Log, ID: id, Arg: l.stream}, nil, l.part))
	}
	l.part = l.part[:0]
}

func (l *lines) keep(b []byte) {
	n := min(len(b), endBytes-len(l.first))
	l.first = append(l.first, b[:n]...)
	l.last = append(l.last, b[n:]...)
	if over := len(l.last) - endBytes; over > 0 {
		l.cut = true
		l.last = append(l.last[:0], l.last[over:]...)
	}
}

// reset forgets what was printed: another attempt is next.
func (l *lines) reset() {
	l.flush()
	l.first, l.last, l.cut = l.first[:0], l.last[:0], false
}

// kept is what was printed since reset, or its beginning and its end.
func (l *lines) kept() string {
	between := ""
	if l.cut {
		between = "\n…\n"
	}
	return string(bytes.ToValidUTF8(l.first, nil)) + between + string(bytes.ToValidUTF8(l.last, nil))
}
