package process

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// Artifacts finds the folder of an app's files; "" as sum means an empty folder.
type Artifacts interface {
	Dir(ctx context.Context, sum string) (string, error)
}

// Settings of a Runtime. A zero value means the default.
type Settings struct {
	// Scratch is a folder that belongs to this Runtime alone: processes get their
	// HOME and TMPDIR in it. It is emptied by New.
	Scratch   string
	Artifacts Artifacts
	// Log takes what functions print and log. It must not block for long. Default:
	// dropped.
	Log    func(exec.LogRecord)
	Logger *slog.Logger // default: slog.Default()

	// Program says what runs a function's attempts. Default: its command and
	// environment.
	Program func(*spec.Function) Program

	// GroupProcesses bounds the processes of one group; default: the number of CPUs.
	GroupProcesses int
	// Processes bounds the processes of the node; default 128. A group that needs
	// one more than there are gets the place of one that is idle. Parents, from which
	// executors are forked and of which a group has at most one, are not counted; there
	// may be as many.
	Processes int
	// MaxObjectBytes bounds an object that a function emits; default 256 MiB.
	MaxObjectBytes int64
	// MaxInputBytes bounds the inputs of one attempt together; default 1 GiB, which
	// is also the most.
	MaxInputBytes int64
	// SharedBytes bounds the memory through which processes get large inputs, of all
	// processes together, and that through which each of them hands over large
	// objects; default 256 MiB. What finds no room there travels on the socket, as
	// everything does if it is negative.
	SharedBytes int64

	// HelloTimeout is how long a program may take to say HELLO; default 10 s.
	HelloTimeout time.Duration
	// CancelGrace is how long an attempt may take to end after it was cancelled or
	// timed out. Then its process gets no further attempts; default 2 s.
	CancelGrace time.Duration
	// SuspectLimit is how long the other attempts of such a process may go on
	// before it is killed; default 10 s.
	SuspectLimit time.Duration
	// StopGrace is how long a process may take to end after GOODBYE, and again
	// after SIGTERM, before it is killed; default 2 s. Close waits for a tenth of it.
	StopGrace time.Duration
	// IdleTimeout ends processes of a group that have been idle so long, except the
	// last one; default 1 min.
	IdleTimeout time.Duration
	// GroupIdleTimeout ends the last process of a group; default 5 min.
	GroupIdleTimeout time.Duration
}

const (
	maxInputBytes  = 1 << 30
	maxSharedBytes = 64 << 30
)

// Program is what a group of functions runs in. Functions of one app and artifact
// with equal programs share processes.
type Program struct {
	Command []string
	Env     map[string]string
	// Name is what messages call it; default: the command.
	Name string
	// MaxInputBytes bounds the inputs of one attempt, if it is less than the Settings
	// do; 0 leaves it to them.
	MaxInputBytes int64
}

func commandOf(f *spec.Function) Program { return Program{Command: f.Command, Env: f.Env} }

// withDefaults fills in what is zero and checks the rest.
func (s Settings) withDefaults() (Settings, error) {
	if s.Scratch == "" || s.Artifacts == nil {
		return s, fmt.Errorf("process runtime: Scratch and Artifacts must be set")
	}
	if s.Log == nil {
		s.Log = func(exec.LogRecord) {}
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	if s.Program == nil {
		s.Program = commandOf
	}
	setDefault(&s.GroupProcesses, runtime.NumCPU())
	setDefault(&s.Processes, 128)
	setDefault(&s.MaxObjectBytes, 256<<20)
	setDefault(&s.MaxInputBytes, maxInputBytes)
	setDefault(&s.SharedBytes, 256<<20)
	setDefault(&s.HelloTimeout, 10*time.Second)
	setDefault(&s.CancelGrace, 2*time.Second)
	setDefault(&s.SuspectLimit, 10*time.Second)
	setDefault(&s.StopGrace, 2*time.Second)
	setDefault(&s.IdleTimeout, time.Minute)
	setDefault(&s.GroupIdleTimeout, 5*time.Minute)
	if s.MaxObjectBytes < 1 || s.MaxObjectBytes > maxInputBytes || s.MaxInputBytes < 1 || s.MaxInputBytes > maxInputBytes {
		return s, fmt.Errorf("process runtime: MaxObjectBytes and MaxInputBytes are 1 byte to 1 GiB")
	}
	if s.SharedBytes > maxSharedBytes {
		return s, fmt.Errorf("process runtime: SharedBytes is at most 64 GiB")
	}
	if s.SharedBytes > 0 { // whole pages
		s.SharedBytes = (s.SharedBytes + growth - 1) / growth * growth
	}
	if s.GroupProcesses < 1 || s.Processes < 1 {
		return s, fmt.Errorf("process runtime: GroupProcesses and Processes are at least 1")
	}
	return s, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// maxBody bounds the body of a frame that a process sends.
func (s *Settings) maxBody() uint32 { return uint32(s.MaxObjectBytes) + protocol.MaxFieldBytes }
