package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// spawner starts processes from one thread that lives until close: the kernel
// kills a child with Pdeathsig when the thread that started it ends, not the
// process. The thread can't gain privileges, and neither can what it starts.
type spawner struct {
	requests chan func()
	done     chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		for f := range s.requests {
			f()
		}
	}()
	return s
}

// keepDescriptors sees to it that programs inherit none of what this process has
// inherited itself: what Go opens is closed on exec, other descriptors may not be.
func keepDescriptors() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

func (s *spawner) start(cmd *osexec.Cmd) (err error) {
	started := make(chan struct{})
	s.requests <- func() {
		err = cmd.Start()
		close(started)
	}
	<-started
	return err
}

// close ends the thread; every process must be gone.
func (s *spawner) close() {
	close(s.requests)
	<-s.done
}

// startError is why a program did not become an executor, for its author.
type startError struct{ message, detail string }

func (e *startError) Error() string { return e.message }

// start starts a process of g and waits for its HELLO. The caller reads it then.
func (rt *Runtime) start(g *group) (*process, error) {
	if err := rt.takePlace(); err != nil {
		return nil, err
	}
	p, err := rt.executor(g)
	if err != nil {
		<-rt.places
		return nil, err
	}
	return p, nil
}

// greet waits for the HELLO of a process that was started; without one, it is gone
// when greet returns.
func (rt *Runtime) greet(p *process) error {
	deadline := time.AfterFunc(rt.s.HelloTimeout, func() { p.kill(helloLate) })
	stop := context.AfterFunc(rt.ctx, func() { p.kill("the node is stopping") })
	err := p.awaitHello()
	stop()
	if !deadline.Stop() && err == nil {
		err = errors.New(helloLate) // it was killed just now
	}
	if err == nil {
		return nil
	}
	return p.startFailure(err)
}

const helloLate = "it did not say HELLO in time"

// takePlace waits for one of the node's places for processes.
func (rt *Runtime) takePlace() error {
	select {
	case rt.places <- struct{}{}:
		return nil
	default:
	}
	rt.wanting.Add(1)
	defer rt.wanting.Add(-1)
	rt.retireIdlest()
	select {
	case rt.places <- struct{}{}:
		return nil
	case <-rt.ctx.Done():
		return rt.ctx.Err()
	}
}

// startFailure cleans up after a program that did not say HELLO, and says why.
func (p *process) startFailure(err error) error {
	s := &p.g.rt.s
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		select {
		case <-p.exited:
		case <-time.After(s.CancelGrace):
		}
	}
	p.g.mu.Lock()
	late := p.killed == helloLate
	p.g.mu.Unlock()
	p.kill("it did not start")
	<-p.exited
	p.socket.close()
	p.output.close()
	p.memory.close()
	_ = os.RemoveAll(p.scratch)

	out := &startError{detail: p.output.tail()}
	var violation protocol.Violation
	command := p.g.program.Name
	switch {
	case late:
		out.message = fmt.Sprintf("%q did not say HELLO within %s: does it call fn.Main (Go) or main (Python)?", command, s.HelloTimeout)
	case errors.As(err, &violation):
		out.message = fmt.Sprintf("%q does not speak the executor protocol: %s", command, violation)
	default:
		out.message = fmt.Sprintf("%q ended before it said HELLO: %s", command, p.status)
		if p.status.Success() {
			out.message += "; does it call fn.Main (Go) or main (Python)?"
		}
	}
	return out
}

// launch starts the program with its descriptors, environment and folders; asked to
// fork executors if fork is set.
func (rt *Runtime) launch(g *group, fork bool) (*process, error) {
	dir, err := rt.s.Artifacts.Dir(rt.ctx, g.artifact)
	if err != nil {
		return nil, &startError{message: "the app's files: " + err.Error()}
	}
	return rt.prepared(g, func(p *process, theirs descriptors) error {
		return rt.launchIn(p, dir, theirs, fork)
	})
}

// descriptors are a process's ends of what connects it with the node.
type descriptors struct{ socket, stdout, stderr *os.File }

// prepared makes all that a process needs and has begin start it; begin sets its
// pid and has somebody reap it.
func (rt *Runtime) prepared(g *group, begin func(*process, descriptors) error) (*process, error) {
	name := fmt.Sprintf("%s-%d", g.app, rt.lastName.Add(1))
	scratch := filepath.Join(rt.s.Scratch, name)
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return nil, &startError{message: "the scratch folder: " + err.Error()}
	}
	p, err := rt.connected(g, name, scratch, begin)
	if err != nil {
		_ = os.RemoveAll(scratch)
		return nil, err
	}
	return p, nil
}

func (rt *Runtime) connected(g *group, name, scratch string, begin func(*process, descriptors) error) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := descriptors{socket: os.NewFile(uintptr(pair[1]), "executor")}
	defer theirs.socket.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil { // ours alone: theirs may block
		_ = unix.Close(pair[0])
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	var out *output
	if out, theirs.stdout, theirs.stderr, err = newOutput(rt, g); err != nil {
		_ = unix.Close(pair[0])
		return nil, fmt.Errorf("make pipes: %w", err)
	}
	defer theirs.stdout.Close()
	defer theirs.stderr.Close()
	p := &process{
		g: g, name: name, socket: newSocket(pair[0]), output: out, scratch: scratch, memory: rt.memoryFor(),
		exited: make(chan struct{}), calls: make(map[uint64]*call), idleSince: time.Now(),
	}
	p.frames = protocol.NewReader(p, rt.s.maxBody())
	if err := begin(p, theirs); err != nil {
		p.socket.close()
		out.close()
		p.memory.close()
		return nil, err
	}
	out.begin(p)
	return p, nil
}

func (rt *Runtime) launchIn(p *process, dir string, theirs descriptors, fork bool) error {
	g := p.g
	env := rt.environment(g, p.name, p.scratch)
	path, err := rt.resolve(g.program.Command, dir, env)
	if err != nil {
		return &startError{message: err.Error()}
	}
	p.mayFork = fork
	if fork {
		env = append(env, protocol.ForkVariable+"=1")
	}
	if p.memory != nil {
		env = append(env, protocol.MemoryVariable+"=1")
	}
	cmd := &osexec.Cmd{
		Path: path, Args: g.program.Command, Env: env, Dir: dir,
		Stdout: theirs.stdout, Stderr: theirs.stderr, ExtraFiles: append([]*os.File{theirs.socket}, p.memory.files()...),
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if err := rt.spawner.start(cmd); err != nil {
		return &startError{message: fmt.Sprintf("start %q: %v", g.program.Name, err)}
	}
	p.pid = cmd.Process.Pid
	noCore := unix.Rlimit{}
	_ = unix.Prlimit(p.pid, unix.RLIMIT_CORE, &noCore, nil) // fails only if it has ended already
	rt.wg.Go(func() { p.reap(cmd) })
	return nil
}

// memoryFor makes the memory that a program shares with the node. Where there is
// none to be had, objects travel inline.
func (rt *Runtime) memoryFor() *memory {
	if rt.s.SharedBytes <= 0 {
		return nil
	}
	m, err := newMemory(rt)
	if err != nil {
		rt.s.Logger.Warn("an executor starts without shared memory", "error", err)
		return nil
	}
	return m
}

// reap waits for the end of the program. What is left of its process group is
// killed while its number is still taken by it.
func (p *process) reap(cmd *osexec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.life.Lock()
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	_ = cmd.Wait() // the exit status is in ProcessState
	p.life.reaped = true
	p.life.Unlock()
	p.status = cmd.ProcessState
	p.socket.shut()
	close(p.exited)
}

// environment is all that a program gets: nothing of the node's own environment
// but PATH.
func (rt *Runtime) environment(g *group, name, scratch string) []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/bin"
	}
	values := map[string]string{
		"PATH": path, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
		"PYTHONPYCACHEPREFIX": filepath.Join(rt.s.Scratch, "pycache-"+string(g.app)), // not beside the app's files, not shared with others
	}
	for key, value := range g.program.Env {
		values[key] = value
	}
	values["PYTHONPATH"] = filepath.Join(rt.s.Scratch, "python")
	if more := g.program.Env["PYTHONPATH"]; more != "" {
		values["PYTHONPATH"] += ":" + more
	}
	values["PHEROMONE_APP"] = string(g.app)
	maps.Copy(values, ownEnvironment(name, scratch))
	env := make([]string, 0, len(values))
	for key, value := range values {
		env = append(env, key+"="+value)
	}
	return env
}

// ownEnvironment is what differs between the processes of a group.
func ownEnvironment(name, scratch string) map[string]string {
	return map[string]string{"HOME": scratch, "TMPDIR": scratch, "PHEROMONE_EXECUTOR": name, scratchVariable: scratch}
}

const scratchVariable = "PHEROMONE_SCRATCH"

// resolve finds the program of a command: relative to the app's folder if it has
// a slash, else on the PATH that the program gets.
func (rt *Runtime) resolve(command []string, dir string, env []string) (string, error) {
	if len(command) == 0 || command[0] == "" {
		return "", errors.New("the function has no command")
	}
	name := command[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if err := executable(name); err != nil {
			return "", fmt.Errorf("start %q: %w", command[0], err)
		}
		return name, nil
	}
	for _, variable := range env {
		list, ok := strings.CutPrefix(variable, "PATH=")
		if !ok {
			continue
		}
		for _, folder := range filepath.SplitList(list) {
			path := filepath.Join(folder, name)
			if filepath.IsAbs(path) && executable(path) == nil {
				return rt.interpreter(name, path, dir, env), nil
			}
		}
	}
	return "", fmt.Errorf("start %q: not found on the PATH", name)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

// interpreter looks behind a version switcher (pyenv and its like), which costs
// some 100 ms at each start: Python is asked once where it really is.
func (rt *Runtime) interpreter(name, path, dir string, env []string) string {
	if name != "python3" && name != "python" {
		return path
	}
	key := path + "\x00" + dir // switchers heed files in the folder
	if known, ok := rt.pythons.Load(key); ok {
		return known.(string)
	}
	ctx, cancel := context.WithTimeout(rt.ctx, rt.s.HelloTimeout)
	defer cancel()
	cmd := osexec.CommandContext(ctx, path, "-S", "-E", "-c", "import sys; print(sys.executable)")
	cmd.Env, cmd.Dir, cmd.WaitDelay = env, dir, time.Second
	answer, err := cmd.Output()
	real := strings.TrimSpace(string(answer))
	if err != nil || !filepath.IsAbs(real) || executable(real) != nil {
		real = path
	}
	rt.pythons.Store(key, real)
	return real
}

// killLeftOver kills what has its scratch folder in dir and is not ours any more:
// processes that left the process group of the executor that started them, or
// that outlived a node which was killed.
func killLeftOver(dir string) { killMarked(dir + "/") }

// killMarked kills what has a scratch folder whose path, followed by a zero byte,
// begins with start.
func killMarked(start string) {
	marker := "\x00" + scratchVariable + "=" + start
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err == nil && strings.Contains("\x00"+string(env), marker) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
