package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// parent is a process of a group that has loaded the program and runs no attempts:
// it forks executors when asked to, which takes a millisecond or two instead of all
// that the program does before it is ready.
//
// Executors die with it, by Pdeathsig, as it dies with the node. It alone can wait
// for them, and does so when it is told: their numbers stay theirs until what they
// have left in their process groups is killed.
type parent struct {
	p       *process
	control sync.Mutex // held for a request and its answer

	// Guarded by the mutex of the group.
	forks   int // executors that it has to wait for
	dropped bool
}

// executor gets the group one more process: a fork of its parent, if it has one or
// can have one.
func (rt *Runtime) executor(g *group) (*process, error) {
	g.mu.Lock()
	f, alone := g.mu.parent, g.mu.alone
	g.mu.Unlock()
	if f != nil {
		p, able, err := rt.fork(f)
		if able {
			return p, err
		}
		rt.s.Logger.Warn("executor was not forked", "app", g.app, "command", g.program.Name, "error", err)
		g.mu.Lock()
		if g.mu.parent == f {
			g.dropParent()
		}
		g.mu.Unlock()
	}
	if !alone {
		p, err := rt.forkFirst(g)
		if p != nil || err != nil {
			return p, err
		}
	}
	p, err := rt.launch(g, false)
	if err == nil {
		err = rt.greet(p)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// forkFirst starts the program, and has it fork an executor if it does that; if it
// does not, it is the executor. The result is nil if there has to be another start.
func (rt *Runtime) forkFirst(g *group) (*process, error) {
	select {
	case rt.parents <- struct{}{}:
	default:
		return nil, nil
	}
	p, err := rt.launch(g, true)
	if err == nil {
		err = rt.greet(p)
	}
	if err != nil {
		<-rt.parents
		return nil, err
	}
	if !p.hello.Forks {
		<-rt.parents
		g.mu.Lock()
		g.mu.alone = true
		g.mu.Unlock()
		if why := p.hello.NoFork; why != "" {
			rt.s.Logger.Info("executors are not forked", "app", g.app, "command", g.program.Name, "because", why[:min(len(why), maxNoFork)])
		}
		return p, nil
	}
	f := &parent{p: p}
	rt.wg.Go(f.outlive)
	g.mu.Lock()
	g.mu.parent = f
	if g.mu.closed {
		g.dropParent()
	}
	g.mu.Unlock()
	fork, able, err := rt.fork(f)
	if able {
		return fork, err
	}
	rt.s.Logger.Warn("executors can't be forked", "app", g.app, "command", g.program.Name, "error", err)
	g.mu.Lock()
	g.mu.alone = true
	if g.mu.parent == f {
		g.dropParent()
	}
	g.mu.Unlock()
	return nil, nil
}

// maxNoFork bounds what is logged of why a program does not fork.
const maxNoFork = 200

// dropParent has the parent end when its executors have. g.mu is held.
func (g *group) dropParent() {
	f := g.mu.parent
	if f == nil {
		return
	}
	g.mu.parent = nil
	f.dropped = true
	f.leaveIfDone()
}

// leaveIfDone ends a parent that nobody needs. The group's mutex is held.
func (f *parent) leaveIfDone() {
	if f.dropped && f.forks == 0 {
		f.p.g.rt.wg.Go(func() { f.p.stop(f.p.g.rt.s.StopGrace, "no executor is to be forked any more") })
	}
}

// outlive cleans up after the parent.
func (f *parent) outlive() {
	p := f.p
	<-p.exited
	g := p.g
	g.mu.Lock()
	if g.mu.parent == f {
		g.mu.parent = nil
	}
	g.mu.Unlock()
	p.socket.close()
	p.output.close()
	p.memory.close() // that of a parent which says that it has mapped it
	_ = os.RemoveAll(p.scratch)
	<-g.rt.parents
}

// fork has the parent fork an executor and waits for its HELLO. It tells whether the
// parent is able to, for all that is known: an error may be the node's own, which has
// no descriptors or no disk left.
func (rt *Runtime) fork(f *parent) (p *process, able bool, err error) {
	g := f.p.g
	g.mu.Lock()
	if f.dropped {
		g.mu.Unlock()
		return nil, false, errors.New("the process that forks executors is ending")
	}
	f.forks++
	g.mu.Unlock()
	able = true
	p, err = rt.prepared(g, func(p *process, theirs descriptors) error {
		err := f.begin(p, theirs)
		able = err == nil
		return err
	})
	if err != nil {
		f.forget()
		return nil, able, err
	}
	if err := rt.greet(p); err != nil {
		return nil, false, err
	}
	return p, true, nil
}

// forget counts an executor off that is no more.
func (f *parent) forget() {
	f.p.g.mu.Lock()
	defer f.p.g.mu.Unlock()
	f.forks--
	f.leaveIfDone()
}

// begin has the parent fork p.
func (f *parent) begin(p *process, theirs descriptors) error {
	request := protocol.ForkRequest{Env: ownEnvironment(p.name, p.scratch), Descriptors: []int{protocol.FD, 1, 2}}
	files := []*os.File{theirs.socket, theirs.stdout, theirs.stderr}
	request.Env[protocol.MemoryVariable] = ""
	if p.memory != nil {
		request.Env[protocol.MemoryVariable] = "1"
		request.Descriptors = append(request.Descriptors, protocol.InputFD, protocol.OutputFD)
		files = append(files, p.memory.files()...)
	}
	answer, err := f.ask(protocol.Header{Type: protocol.Fork}, mustJSON(request), files...)
	if err != nil {
		return err
	}
	if answer.Arg == 0 {
		return fmt.Errorf("it can't fork: %.200q", answer.Payload)
	}
	pidfd, err := f.open(int(answer.Arg))
	if err != nil {
		f.p.kill("it has forked an executor that can't be told from other processes")
		return fmt.Errorf("take over process %d: %w", answer.Arg, err)
	}
	p.pid = int(answer.Arg)
	f.p.g.rt.wg.Go(func() { p.reapFork(f, pidfd) })
	return nil
}

// open opens an executor that was forked, as a pidfd.
func (f *parent) open(pid int) (pidfd int, err error) {
	if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return 0, err
	}
	if err := f.has(pid); err != nil {
		_ = unix.Close(pidfd)
		return 0, err
	}
	return pidfd, nil
}

// has tells whether pid is a child of the parent that leads a process group. The
// node will kill that group: nobody else's may be named to it.
func (f *parent) has(pid int) error {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return err
	}
	// The name of the program stands in parentheses and may have any character.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 3 || fields[1] != strconv.Itoa(f.p.pid) || fields[2] != strconv.Itoa(pid) {
		return errors.New("it is not a child of the process that forks executors, in a process group of its own")
	}
	return nil
}

// ask sends a request with descriptors and waits for the answer. A parent that does
// not answer is of no use: it is killed.
func (f *parent) ask(h protocol.Header, payload []byte, files ...*os.File) (protocol.Frame, error) {
	f.control.Lock()
	defer f.control.Unlock()
	answer, err := f.exchange(h, payload, files)
	if err != nil {
		f.p.kill("it did not answer a request to fork or to wait for an executor: " + err.Error())
		return protocol.Frame{}, fmt.Errorf("ask the process that forks executors: %w", err)
	}
	return answer, nil
}

func (f *parent) exchange(h protocol.Header, payload []byte, files []*os.File) (protocol.Frame, error) {
	h.BodyBytes = uint32(len(payload))
	if err := f.p.socket.pass(append(h.Append(nil), payload...), files); err != nil {
		return protocol.Frame{}, err
	}
	if err := f.p.socket.file.SetReadDeadline(time.Now().Add(f.p.g.rt.s.HelloTimeout)); err != nil {
		return protocol.Frame{}, err
	}
	answer, err := f.p.frames.Next()
	if err != nil {
		return protocol.Frame{}, err
	}
	if answer.Type != h.Type {
		return protocol.Frame{}, protocol.Violation(fmt.Sprintf("it answered %s with %s", h.Type, answer.Type))
	}
	return answer, nil
}

const parentEnded = "the process that it was forked from has ended"

// reapFork is reap for an executor that was forked.
func (p *process) reapFork(f *parent, pidfd int) {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			break
		}
	}
	_ = unix.Close(pidfd)
	p.life.Lock()
	select {
	case <-f.p.exited: // its number is free
	default:
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
	answer, err := f.ask(protocol.Header{Type: protocol.Reap, Arg: uint32(p.pid)}, nil)
	p.life.reaped = true
	p.life.Unlock()
	if err != nil {
		// The parent has ended, and with it this executor. What this has started may
		// have outlived it, and what it has forked, which is known by the environment
		// that the parent was started with.
		killMarked(p.scratch + "\x00")
		killMarked(f.p.scratch + "\x00")
		p.g.mu.Lock()
		if p.killed == "" {
			p.killed = parentEnded
		}
		p.g.mu.Unlock()
	}
	p.status = forkStatus{wait: syscall.WaitStatus(answer.Arg), known: answer.Flags&protocol.FlagKnown != 0}
	f.forget()
	p.socket.shut()
	close(p.exited)
}

// forkStatus is how an executor ended that was forked, in the words that the
// standard library has for others.
type forkStatus struct {
	wait  syscall.WaitStatus
	known bool
}

func (s forkStatus) Success() bool { return s.known && s.wait.Exited() && s.wait.ExitStatus() == 0 }

func (s forkStatus) String() string {
	switch {
	case !s.known:
		return "its exit status is not known"
	case s.wait.Signaled():
		return "signal: " + s.wait.Signal().String()
	default:
		return "exit status " + strconv.Itoa(s.wait.ExitStatus())
	}
}
