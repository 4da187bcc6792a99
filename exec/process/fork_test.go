package process_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

var forked = []string{"python3", "forked.py"}

// told is what an executor of testdata/forked.py tells of itself.
type told struct {
	Pid, Parent, Group int
	LoadedIn           int `json:"loaded_in"`
	Random             [2]any
	Home, Tmp          string
	Executor           string
	Folder             bool
	Privileges         string
	Core               []string
	Threads            int
	Descriptors        []string
	More, Inheritable  []int
	Memory             int
	Blocking           []bool
	OnChild            bool `json:"on_child"`
}

// telling makes a task of the function tell, in a program that does loads.
func (b *bench) telling(loads string, in ...exec.Input) *run {
	r := b.task(forked, "tell", in...)
	r.task.Function.Env = map[string]string{"LOADS": loads}
	return r
}

func (r *run) told() (t told) {
	r.t.Helper()
	out := r.succeed()
	if err := json.Unmarshal(out[len(out)-1].Data, &t); err != nil {
		r.t.Fatal(err)
	}
	return t
}

// hold submits a task that occupies an executor until the function is called.
func (b *bench) hold(loads string) (r *run, letGo func()) {
	b.t.Helper()
	r = b.telling(loads, object("hold", nil))
	b.submit(r).emission()
	return r, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.objects["go"] = object("go", nil)
	}
}

// siblings has two executors of a program run an attempt each.
func (b *bench) siblings(loads string) (first, second told) {
	b.t.Helper()
	a, letGo := b.hold(loads)
	c, letGoToo := b.hold(loads)
	letGo()
	letGoToo()
	return a.told(), c.told()
}

func TestExecutorsAreForkedFromAProcessThatHasLoadedTheProgram(t *testing.T) {
	inherited, err := unix.Dup(2) // by the node, from what has started it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	b := newBench(t, process.Settings{GroupProcesses: 2})
	first, second := b.siblings("")
	if first.Pid == second.Pid || first.Parent != second.Parent || first.Parent == os.Getpid() {
		t.Fatalf("processes %d and %d have the parents %d and %d; this is %d", first.Pid, second.Pid, first.Parent, second.Parent, os.Getpid())
	}
	for _, got := range []told{first, second} {
		if got.LoadedIn != got.Parent {
			t.Errorf("process %d of %d loaded the program in %d", got.Pid, got.Parent, got.LoadedIn)
		}
		if got.Group != got.Pid {
			t.Errorf("process %d is in the group of %d", got.Pid, got.Group)
		}
		if !slices.Equal(got.Descriptors, []string{"/dev/null", "pipe", "pipe", "socket"}) || len(got.More) > 0 {
			t.Errorf("it has the descriptors %q and %v", got.Descriptors, got.More)
		}
		if got.Memory != 2 {
			t.Errorf("it has %d descriptors of memory", got.Memory)
		}
		if !slices.Equal(got.Inheritable, []int{0, 1, 2}) || slices.Contains(got.Blocking, false) {
			t.Errorf("descriptors %v are inherited; blocking: %v", got.Inheritable, got.Blocking)
		}
		if got.Privileges != "1" || !slices.Equal(got.Core, []string{"0"}) {
			t.Errorf("no new privileges: %s, core: %s", got.Privileges, got.Core)
		}
		if got.Home != got.Tmp || !got.Folder || filepath.Base(got.Home) != got.Executor {
			t.Errorf("executor %s has HOME %s and TMPDIR %s, there: %v", got.Executor, got.Home, got.Tmp, got.Folder)
		}
	}
	if first.Random[0] == second.Random[0] || first.Random[1] == second.Random[1] || first.Home == second.Home {
		t.Errorf("both have %v or %s", first.Random, first.Home)
	}
}

func TestAProgramThatAForkWouldHarmIsStartedForEachExecutor(t *testing.T) {
	for loads, want := range map[string]struct{ threads int }{
		"thread": {4}, "file": {3}, "program": {3}, "told": {3},
	} {
		t.Run(loads, func(t *testing.T) {
			b := newBench(t, process.Settings{GroupProcesses: 2})
			first, second := b.siblings(loads)
			for _, got := range []told{first, second} {
				if got.Parent != os.Getpid() || got.LoadedIn != got.Pid {
					t.Errorf("process %d has the parent %d and has loaded in %d", got.Pid, got.Parent, got.LoadedIn)
				}
				if got.Threads < want.threads {
					t.Errorf("it has %d threads, want %d or more", got.Threads, want.threads)
				}
			}
		})
	}
}

func TestTheEndOfAForkedExecutorIsToldAndHurtsNoOther(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 2})
	beside, letGo := b.hold("")
	fail := func(function string) *exec.Failure {
		r := b.task(forked, function)
		r.task.Function.Env = map[string]string{"LOADS": ""}
		return b.submit(r).fail(exec.Crashed)
	}
	if f := fail("exit"); f.Message != "the process ended: exit status 3" || f.Detail != "last words\n" {
		t.Errorf("it failed with %+v", f)
	}
	if f := fail("abort"); f.Message != "the process ended: signal: segmentation fault" {
		t.Errorf("it failed with %+v", f)
	}
	after := b.submit(b.telling("")).told()
	letGo()
	if before := beside.told(); after.Pid == before.Pid || after.Parent != before.Parent {
		t.Errorf("the next executor is %d of %d, beside %d of %d", after.Pid, after.Parent, before.Pid, before.Parent)
	}
}

func TestTheNextExecutorHasANewParentWhenTheirsHasEnded(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 2})
	before := b.submit(b.telling("")).told()
	held, _ := b.hold("")
	left := b.task(forked, "child")
	left.task.Function.Env = map[string]string{"LOADS": ""}
	var children []int
	if err := json.Unmarshal(b.submit(left).succeed()[0].Data, &children); err != nil {
		t.Fatal(err)
	}
	if before.Parent == os.Getpid() {
		t.Fatal("the executor was not forked")
	}
	for _, pid := range children {
		await(t, "the environment of a program that was just started", func() bool {
			env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			return err == nil && len(env) > 0
		})
	}
	if err := unix.Kill(before.Parent, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if f := held.fail(exec.Lost); f.Message != "the process was killed: the process that it was forked from has ended" {
		t.Errorf("it failed with %+v", f)
	}
	for _, pid := range append(children, before.Pid) {
		await(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return !alive(pid) })
	}
	next := b.telling("")
	for b.submit(next).end() != nil && next.failure.Kind == exec.Lost { // it met an executor whose end was not known yet
		next = b.telling("")
	}
	after := next.told()
	if after.Parent == before.Parent || after.Parent == os.Getpid() || after.LoadedIn != after.Parent {
		t.Errorf("the next executor has the parent %d, which loaded in %d; the one before had %d", after.Parent, after.LoadedIn, before.Parent)
	}
}

func TestWhatAProgramPrintsAndSetsWhileItIsLoadedIsKept(t *testing.T) {
	b := newBench(t, process.Settings{})
	b.submit(b.telling("print")).told()
	b.awaitLog(func(r exec.LogRecord) bool { return r.Text == "loading" })
	if got := b.submit(b.telling("handler")).told(); !got.OnChild || got.LoadedIn != got.Parent {
		t.Errorf("the handler of a signal is there: %v; process %d of %d was loaded in %d", got.OnChild, got.Pid, got.Parent, got.LoadedIn)
	}
}

func TestCloseLeavesNothingOfWhatWasForked(t *testing.T) {
	defer nodetest.NoGoroutinesLeft(t)
	b := newBench(t, process.Settings{GroupProcesses: 2})
	first, second := b.siblings("")
	b.hold("")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{first.Pid, second.Pid, first.Parent} {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
}

func TestAProcessThatForksIsNotKeptForExecutorsThatAreNotNeeded(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 2, IdleTimeout: time.Millisecond, GroupIdleTimeout: time.Millisecond})
	got := b.submit(b.telling("")).told()
	for _, pid := range []int{got.Pid, got.Parent} {
		await(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return !alive(pid) })
	}
	if again := b.submit(b.telling("")).told(); again.Parent == got.Parent {
		t.Errorf("the next one has the parent %d, which had ended", again.Parent)
	}
}

// forkingParent is a node of its own, whose executor was forked and is deaf; it
// tells that one's pid and its parent's, and waits to be killed.
func forkingParent() {
	rt, err := process.New(process.Settings{Scratch: os.Args[3], Artifacts: folder(os.Args[4])})
	if err != nil {
		panic(err)
	}
	b := &bench{Runtime: rt}
	r := b.submit(b.telling(""))
	<-r.done
	deaf := b.task(forked, "deaf")
	deaf.task.Function.Env = r.task.Function.Env
	<-b.submit(deaf).some
	fmt.Printf("%s\n", r.emitted[0].Data)
	select {}
}

func TestAKilledNodeTakesAlongWhatWasForked(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	node := osexec.Command(goProgram(t, "forking-parent")[0], "executor", "forking-parent", t.TempDir()+"/scratch", testdata)
	node.Stderr = os.Stderr
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	var got told
	if err := json.NewDecoder(out).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Parent == node.Process.Pid || !alive(got.Pid) || !alive(got.Parent) {
		t.Fatalf("it told %+v", got)
	}
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait() // it was killed
	for _, pid := range []int{got.Pid, got.Parent} {
		await(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return !alive(pid) })
	}
}

// badForks are programs that say that they fork and then do, with the first FORK,
// something else. Started without being asked to fork, they are executors.
var badForks = map[string]func(conn net.Conn){
	"names another process": func(conn net.Conn) {
		innocent := os.Getenv("INNOCENT")
		var pid uint32
		if _, err := fmt.Sscan(innocent, &pid); err != nil {
			panic(err)
		}
		answer(conn, protocol.Header{Type: protocol.Fork, Arg: pid})
	},
	"names itself":   func(conn net.Conn) { answer(conn, protocol.Header{Type: protocol.Fork, Arg: uint32(os.Getpid())}) },
	"names no one":   func(conn net.Conn) { answer(conn, protocol.Header{Type: protocol.Fork, Arg: 1 << 30}) },
	"can't fork":     func(conn net.Conn) { answer(conn, protocol.Header{Type: protocol.Fork}) },
	"says something": func(conn net.Conn) { answer(conn, protocol.Header{Type: protocol.Reap, Arg: 1}) },
	"hangs up":       func(conn net.Conn) { _ = conn.Close() },
	"says nothing":   func(net.Conn) {},
}

func answer(conn net.Conn, h protocol.Header) {
	if _, err := conn.Write(h.Append(nil)); err != nil {
		panic(err)
	}
}

// forksBadly is the program of badForks.
func forksBadly() {
	if os.Getenv(protocol.ForkVariable) == "" && os.Getenv("INSISTS") == "" {
		functions()
		return
	}
	conn := hello(`{"versions":[1],"sdk":"x","functions":["echo"],"concurrency":1,"forks":true,"memory":true}`)
	r := protocol.NewReader(conn, 1<<20)
	for {
		f, err := r.Next()
		if err != nil {
			return
		}
		if f.Type == protocol.Fork {
			badForks[os.Getenv("FORKS")](conn)
		}
	}
}

func TestAProgramThatForksBadlyIsStartedInstead(t *testing.T) {
	for does := range badForks {
		t.Run(does, func(t *testing.T) {
			innocent := osexec.Command("sleep", "1000")
			innocent.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
			if err := innocent.Start(); err != nil {
				t.Fatal(err)
			}
			s := process.Settings{StopGrace: 50 * time.Millisecond}
			if does == "says nothing" {
				s.HelloTimeout = 4 * time.Second // it takes all of it
			}
			b := newBench(t, s)
			r := b.task(goProgram(t, "forks-badly"), "echo")
			r.task.Function.Env = map[string]string{"FORKS": does, "INNOCENT": fmt.Sprint(innocent.Process.Pid)}
			b.submit(r).succeed()
			if !alive(innocent.Process.Pid) {
				t.Error("a process that is not the program's was killed")
			}
			_ = innocent.Process.Kill()
			_ = innocent.Wait() // it was killed
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if left := memoryFiles(t); len(left) != 0 {
				t.Errorf("%d files of memory are still open", len(left))
			}
		})
	}
}

func TestAProgramThatForksUnaskedDoesNotStart(t *testing.T) {
	b := newBench(t, process.Settings{StopGrace: 50 * time.Millisecond})
	r := b.task(goProgram(t, "forks-badly"), "echo")
	r.task.Function.Env = map[string]string{"FORKS": "can't fork", "INSISTS": "yes"}
	if f := b.submit(r).fail(exec.Start); !strings.Contains(f.Message, "it forks executors, and was not asked to") {
		t.Fatalf("failure %+v", f)
	}
}

func TestAParentIsKeptWhenTheNodeCanNotPrepareAnExecutor(t *testing.T) {
	b := newBench(t, process.Settings{})
	before := b.submit(b.telling("")).told()
	if err := unix.Kill(before.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.await("the executor to be gone", func() bool { return len(b.Processes()) == 0 })
	scratch := filepath.Dir(before.Home)
	if err := os.Rename(scratch, scratch+" of before"); err != nil {
		t.Fatal(err)
	}
	f := b.submit(b.telling("")).end()
	if err := os.Rename(scratch+" of before", scratch); err != nil {
		t.Fatal(err)
	}
	if f == nil || f.Kind != exec.Start || !strings.Contains(f.Message, "the scratch folder") {
		t.Fatalf("without a scratch folder it ended with %+v", f)
	}
	if after := b.submit(b.telling("")).told(); after.Parent != before.Parent {
		t.Errorf("the next executor has the parent %d, the one before had %d", after.Parent, before.Parent)
	}
}

func TestAProgramWhoseParentEndsAfterEachForkIsNotStartedWithoutPause(t *testing.T) {
	b := newBench(t, process.Settings{})
	orphans := func() *run {
		r := b.task(forked, "orphans")
		r.task.Function.Env = map[string]string{"LOADS": ""}
		return r
	}
	b.await("a pause", func() bool { // each one is longer than the one before
		b.submit(orphans()).fail(exec.Lost)
		return b.Room(orphans().task) == exec.Room{}
	})
}
