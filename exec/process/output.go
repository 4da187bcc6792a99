package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	maxLine = protocol.MaxLogBytes
	// tailBytes is how much of the last output is kept for the failure of a crash.
	tailBytes = 4 << 10
	// A process may log logBurst bytes at once and logRate a second; the rest is
	// dropped and counted.
	logBurst = 1 << 20
	logRate  = 256 << 10
	// drainTime bounds the wait for the rest of the output of an ended program whose
	// pipes are held open by others.
	drainTime = 250 * time.Millisecond
	// maxAuthors bounds the functions that one line is attributed to.
	maxAuthors = 16
)

// output takes what a program prints, line by line, and what its SDK logs, and
// passes it on within bounds.
type output struct {
	rt      *Runtime
	g       *group
	streams [2]*os.File // the read ends of stdout and stderr
	readers sync.WaitGroup

	mu struct {
		sync.Mutex
		stderr  []byte // the end of it, at most tailBytes
		printed []byte // the end of all else that it printed and logged, as much
		tokens  float64
		filled  time.Time // when tokens was brought up to date
		dropped int
	}
}

// newOutput makes the pipes; the write ends are the program's.
func newOutput(rt *Runtime, g *group) (o *output, stdout, stderr *os.File, err error) {
	o = &output{rt: rt, g: g}
	o.mu.tokens, o.mu.filled = logBurst, time.Now()
	if o.streams[0], stdout, err = os.Pipe(); err != nil {
		return nil, nil, nil, err
	}
	if o.streams[1], stderr, err = os.Pipe(); err != nil {
		_ = o.streams[0].Close()
		_ = stdout.Close()
		return nil, nil, nil, err
	}
	return o, stdout, stderr, nil
}

func (o *output) begin(p *process) {
	o.readers.Go(func() { o.read(p, &toTheEnd{pipe: o.streams[0]}, exec.StreamStdout) })
	o.readers.Go(func() { o.read(p, &toTheEnd{pipe: o.streams[1]}, exec.StreamStderr) })
}

// close takes the rest of the output of an ended program and frees the pipes.
func (o *output) close() {
	for _, stream := range o.streams {
		_ = stream.SetReadDeadline(time.Now().Add(drainTime))
	}
	o.readers.Wait()
	for _, stream := range o.streams {
		_ = stream.Close()
	}
	o.mu.Lock()
	dropped := o.mu.dropped
	o.mu.dropped = 0
	o.mu.Unlock()
	o.reportDropped(dropped)
}

// pipeBytes is the most that a pipe holds, if nobody has changed the system.
const pipeBytes = 1 << 20

// toTheEnd reads a pipe to its end, or to what is in it once its deadline is over: on
// a busy machine nothing may have been read until then.
type toTheEnd struct {
	pipe *os.File
	late bool // the deadline is over
	left int  // what may be read since
}

func (r *toTheEnd) Read(b []byte) (int, error) {
	if !r.late {
		n, err := r.pipe.Read(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		r.late, r.left = true, pipeBytes // others may write on
		if err := r.pipe.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
	}
	raw, err := r.pipe.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, failed := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		n, failed = unix.Read(int(fd), b[:min(len(b), r.left)])
		return true // without waiting for more
	})
	if err == nil && failed != nil {
		err = os.ErrDeadlineExceeded
	}
	if n = max(n, 0); n == 0 && err == nil {
		err = io.EOF
	}
	r.left -= n
	return n, err
}

// tail is the end of what the program printed to stderr, or else printed and
// logged.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.mu.stderr
	if len(last) == 0 {
		last = o.mu.printed
	}
	return string(bytes.ToValidUTF8(last, []byte("\uFFFD")))
}

func (o *output) read(p *process, from io.Reader, stream string) {
	buf := make([]byte, maxLine)
	have := 0
	for {
		n, err := from.Read(buf[have:])
		o.keep(stream, buf[have:have+n])
		have += n
		start := 0
		for {
			i := bytes.IndexByte(buf[start:have], '\n')
			if i < 0 {
				break
			}
			o.line(p, stream, buf[start:start+i])
			start += i + 1
		}
		if have-start == len(buf) || err != nil && have > start { // a line over the bound, or the last one
			o.line(p, stream, buf[start:have])
			start = have
		}
		have = copy(buf, buf[start:have])
		if err != nil {
			return
		}
	}
}

// keep remembers the end of what has come.
func (o *output) keep(stream string, b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := &o.mu.printed
	if stream == exec.StreamStderr {
		last = &o.mu.stderr
	}
	*last = append(*last, b...)
	if over := len(*last) - tailBytes; over > 0 {
		*last = append((*last)[:0], (*last)[over:]...)
	}
}

func (o *output) line(p *process, stream string, text []byte) {
	r := exec.LogRecord{Stream: stream, Text: string(bytes.TrimSuffix(text, []byte{'\r'}))}
	waiting := p.attribute(&r)
	if len(waiting) == 0 {
		o.pass(r)
	}
	for _, r.Function = range waiting {
		o.pass(r)
	}
}

// logged takes a LOG frame.
func (o *output) logged(p *process, f protocol.Frame) {
	r := exec.LogRecord{Stream: exec.StreamLog, Text: string(f.Payload)}
	switch f.Arg {
	case protocol.StreamStdout:
		r.Stream = exec.StreamStdout
	case protocol.StreamStderr:
		r.Stream = exec.StreamStderr
	}
	o.keep(r.Stream, []byte(r.Text+"\n"))
	if c := p.lookup(f.ID); c != nil {
		name(&r, c)
	}
	o.pass(r)
}

// attribute says who printed a line: the attempt if one alone runs, or was the
// last to; the function if all that run are of one. Of a process that had no
// attempt yet, it returns the functions that wait for it, if any do.
func (p *process) attribute(r *exec.LogRecord) (waiting []spec.FunctionName) {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	var only *call
	for _, c := range p.calls {
		if only != nil && only.task.Function.Name != c.task.Function.Name {
			return nil
		}
		only = c
	}
	if only == nil {
		only = p.lastCall
	}
	if only == nil {
		return p.g.startingFor()
	}
	r.Function = only.task.Function.Name
	if len(p.calls) <= 1 {
		name(r, only)
	}
	return nil
}

// startingFor returns the functions that another process is for: those that wait,
// or else those whose attempts keep the others busy. g.mu is held.
func (g *group) startingFor() []spec.FunctionName {
	var names []spec.FunctionName
	for _, q := range g.mu.ring {
		names = append(names, q.function)
	}
	if len(names) == 0 {
		for _, p := range g.mu.procs {
			for _, c := range p.calls {
				if !slices.Contains(names, c.task.Function.Name) {
					names = append(names, c.task.Function.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return names[:min(len(names), maxAuthors)]
}

func name(r *exec.LogRecord, c *call) {
	r.Function, r.Invocation, r.Attempt = c.task.Function.Name, c.task.Invocation.String(), c.task.Attempt
}

// pass hands a record on if the process has not logged too much.
func (o *output) pass(r exec.LogRecord) {
	r.Time, r.App = time.Now(), o.g.app
	size := float64(len(r.Text) + 64) // an empty line costs something too
	o.mu.Lock()
	o.mu.tokens = min(logBurst, o.mu.tokens+r.Time.Sub(o.mu.filled).Seconds()*logRate)
	o.mu.filled = r.Time
	if o.mu.tokens < size {
		o.mu.dropped += len(r.Text)
		o.mu.Unlock()
		return
	}
	o.mu.tokens -= size
	dropped := o.mu.dropped
	o.mu.dropped = 0
	o.mu.Unlock()
	o.reportDropped(dropped)
	o.rt.s.Log(r)
}

func (o *output) reportDropped(bytes int) {
	if bytes > 0 {
		o.rt.s.Log(exec.LogRecord{
			Time: time.Now(), App: o.g.app, Stream: exec.StreamNode,
			Text: fmt.Sprintf("dropped %d bytes of output: the process printed more than %d bytes a second", bytes, logRate),
		})
	}
}
