package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
)

const (
	maxLine = protocol.MaxLogBytes
	// tailBytes is how much of stderr is kept for the failure of a crash.
	tailBytes = 4 << 10
	// A process may log logBurst bytes at once and logRate a second; the rest is
	// dropped and counted.
	logBurst = 1 << 20
	logRate  = 256 << 10
	// drainTime bounds the wait for the rest of the output of an ended program whose
	// pipes are held open by others.
	drainTime = 250 * time.Millisecond
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
		last    []byte // of stderr, at most tailBytes
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
	o.readers.Go(func() { o.read(p, o.streams[0], exec.StreamStdout) })
	o.readers.Go(func() { o.read(p, o.streams[1], exec.StreamStderr) })
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

// tail is the end of what the program printed to stderr.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(bytes.ToValidUTF8(o.mu.last, []byte("\uFFFD")))
}

func (o *output) read(p *process, from io.Reader, stream string) {
	buf := make([]byte, maxLine)
	have := 0
	for {
		n, err := from.Read(buf[have:])
		if stream == exec.StreamStderr {
			o.keep(buf[have : have+n])
		}
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

// keep remembers the end of stderr.
func (o *output) keep(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.last = append(o.mu.last, b...)
	if over := len(o.mu.last) - tailBytes; over > 0 {
		o.mu.last = append(o.mu.last[:0], o.mu.last[over:]...)
	}
}

func (o *output) line(p *process, stream string, text []byte) {
	r := exec.LogRecord{Stream: stream, Text: string(bytes.TrimSuffix(text, []byte{'\r'}))}
	p.attribute(&r)
	o.pass(r)
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
	if c := p.lookup(f.ID); c != nil {
		name(&r, c)
	}
	o.pass(r)
}

// attribute says who printed a line: the attempt if one alone runs, or was the
// last to; the function if all that run are of one.
func (p *process) attribute(r *exec.LogRecord) {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	var only *call
	for _, c := range p.calls {
		if only != nil && only.task.Function.Name != c.task.Function.Name {
			return
		}
		only = c
	}
	if only == nil {
		only = p.lastCall
	}
	if only == nil {
		return
	}
	r.Function = only.task.Function.Name
	if len(p.calls) <= 1 {
		name(r, only)
	}
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
