package process

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
)

// end cleans up after the process: it is killed if it still runs, reaped, and
// its calls fail with a reason.
func (p *process) end(readErr error) {
	violation := protocol.Violation("")
	if errors.As(readErr, &violation) {
		p.kill("it broke the protocol: " + violation.Error())
	} else if readErr == io.EOF || readErr == io.ErrUnexpectedEOF {
		// Its socket usually closes a moment before it can be reaped.
		select {
		case <-p.exited:
		case <-time.After(p.g.rt.s.CancelGrace):
			p.kill("it has closed its connection to the node")
		}
	} else {
		p.kill("its connection broke: " + readErr.Error())
	}
	<-p.exited
	p.socket.close()
	p.output.close()
	calls := p.g.gone(p)
	for _, c := range calls {
		c.finish(p.failure(c, violation))
	}
	p.memory.close()
	_ = os.RemoveAll(p.scratch)
	<-p.g.rt.places
	p.g.signal()
}

// failure says why a call of a process that is gone failed.
func (p *process) failure(c *call, violation protocol.Violation) *exec.Failure {
	c.mu.Lock()
	sent := c.mu.sent
	c.mu.Unlock()
	p.g.mu.Lock()
	killed := p.killed
	p.g.mu.Unlock()
	switch {
	case violation != "":
		return &exec.Failure{Kind: exec.Refused, Message: "the process broke the executor protocol: " + violation.Error(), Detail: p.output.tail()}
	case p.g.rt.ctx.Err() != nil:
		return closedFailure()
	case killed != "":
		return &exec.Failure{Kind: exec.Lost, Message: "the process was killed: " + killed}
	case !sent:
		return &exec.Failure{Kind: exec.Lost, Message: "the process ended before it got the attempt: " + p.status.String()}
	default:
		return &exec.Failure{Kind: exec.Crashed, Message: "the process ended: " + p.status.String(), Detail: p.output.tail()}
	}
}

// kill ends the process and all that it has started in its process group.
func (p *process) kill(why string) {
	p.g.mu.Lock()
	if p.killed == "" {
		p.killed = why
	}
	p.g.mu.Unlock()
	p.signal(unix.SIGKILL)
}

// signal sends to the process group. Once the leader is reaped its number may
// belong to others, so nothing is sent any more.
func (p *process) signal(sig unix.Signal) {
	p.life.Lock()
	defer p.life.Unlock()
	if !p.life.reaped {
		_ = unix.Kill(-p.pid, sig)
	}
}

// stop ends the process in good order: GOODBYE, then SIGTERM, then SIGKILL.
func (p *process) stop(grace time.Duration, why string) {
	p.g.mu.Lock()
	p.leaving = true
	p.g.mu.Unlock()
	p.say(protocol.Header{Type: protocol.Goodbye}, mustJSON(protocol.Reason{Reason: why}))
	for _, next := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		timer := time.NewTimer(grace)
		select {
		case <-p.exited:
			timer.Stop()
			return
		case <-timer.C:
		}
		if next == unix.SIGKILL {
			p.kill(why)
		} else {
			p.signal(next)
		}
	}
}
