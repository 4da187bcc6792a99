package process_test

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

func TestWaitingTasksOfAllFunctionsGetTheirTurn(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "one-at-a-time")
	b.submit(b.task(command, "f")).succeed()
	blocked, hold := b.occupy(command)

	var mu sync.Mutex
	var order []string
	var all []*run
	for i, name := range []string{"f", "f", "f", "g", "g", "h"} {
		r := b.task(command, name)
		r.task.Source = source(func(context.Context) ([]exec.Input, error) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, fmt.Sprint(name, i))
			return nil, nil
		})
		all = append(all, b.submit(r))
	}
	close(hold)
	blocked.succeed()
	for _, r := range all {
		r.succeed()
	}
	if got := strings.Join(order, " "); got != "f0 g3 h5 f1 g4 f2" {
		t.Fatalf("they began in the order %s", got)
	}
}

func TestACancelledTaskThatWaitsNeverStarts(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "one-at-a-time")
	b.submit(b.task(command, "f")).succeed()
	blocked, hold := b.occupy(command)
	waiting := b.submit(b.task(command, "f"))
	b.Cancel(waiting.task.Ref())
	waiting.fail(exec.Cancelled)
	close(hold)
	blocked.succeed()
	b.submit(b.task(command, "f")).succeed()
	if waiting.started != "" {
		t.Fatal("it was started")
	}
}

func TestIdleProcessesEnd(t *testing.T) {
	b := newBench(t, process.Settings{IdleTimeout: 20 * time.Millisecond, GroupIdleTimeout: 60 * time.Millisecond})
	b.submit(b.task(goProgram(t, "functions"), "echo")).succeed()
	b.await("the process to end", func() bool { return len(b.Processes()) == 0 })
	b.submit(b.task(goProgram(t, "functions"), "echo")).succeed()
}

func TestAGroupGetsThePlaceOfAnIdleOne(t *testing.T) {
	b := newBench(t, process.Settings{Processes: 1})
	first := b.submit(b.task(goProgram(t, "functions"), "echo"))
	first.succeed()
	second := b.task(goProgram(t, "functions"), "echo")
	second.task.App = "other"
	b.submit(second).succeed()
	if p := b.Processes(); len(p) != 1 || p[0].App != "other" {
		t.Fatalf("processes %+v", p)
	}
}

func TestBusyProcessesAreJoinedByOthersUpToTheBound(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 3})
	var all []*run
	submit := func() { // Python says that it runs one attempt well at once
		r := b.submit(b.task([]string{"python3", "functions.py"}, "waits"))
		r.emission()
		all = append(all, r)
	}
	for len(b.Processes()) < 3 && len(all) < 150 {
		submit()
	}
	for range 10 {
		submit()
	}
	if n := len(b.Processes()); n != 3 {
		t.Fatalf("%d processes run %d attempts, want 3", n, len(all))
	}
	for _, r := range all {
		b.Cancel(r.task.Ref())
		r.fail(exec.Cancelled)
	}
}

func TestAProgramGetsACleanEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_NODE", "x")
	b := newBench(t, process.Settings{})
	r := b.task(goProgram(t, "prints-env"), "f")
	r.task.Function.Env = map[string]string{"MINE": "yes", "PHEROMONE_APP": "forged"}
	text := string(b.submit(r).succeed()[0].Data)
	for _, want := range []string{"MINE=yes\n", "PHEROMONE_APP=app\n", "HOME=", "TMPDIR=", "PYTHONPATH=", "NoNewPrivs:\t1\n", "0=/dev/null\n", "1=pipe:", "2=pipe:"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(text, "SECRET_OF_THE_NODE") {
		t.Error("the node's environment was passed on")
	}
	if n := strings.Count(text, "=socket:") + strings.Count(text, "=pipe:") + strings.Count(text, "=/"); strings.Contains(text, "\n5=socket") || n == 0 {
		t.Errorf("descriptors were inherited:\n%s", text)
	}
}

func TestCloseLeavesNoProcessNorItsChildren(t *testing.T) {
	defer nodetest.NoGoroutinesLeft(t)
	b := newBench(t, process.Settings{StopGrace: 200 * time.Millisecond})
	out := b.submit(b.task(goProgram(t, "with-grandchild"), "f")).succeed()
	var grandchild int
	if _, err := fmt.Sscan(string(out[0].Data), &grandchild); err != nil {
		t.Fatal(err)
	}
	hung := b.submit(b.task(goProgram(t, "stubborn"), "hang"))
	hung.emission()
	var pids []int
	for _, p := range b.Processes() {
		pids = append(pids, p.PID)
	}
	if len(pids) != 2 || !alive(grandchild) {
		t.Fatalf("processes %v, grandchild %d", pids, grandchild)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	hung.fail(exec.Lost)
	for _, pid := range append(pids, grandchild) {
		await(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return !alive(pid) })
	}
	late := b.task(goProgram(t, "functions"), "echo")
	b.submit(late).fail(exec.Lost)
}

// alive tells whether pid runs; a zombie that nobody reaps does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// parent is a node of its own: it runs one attempt that hangs, tells the pid of
// its executor and of that one's child, and waits to be killed.
func parent() {
	rt, err := process.New(process.Settings{Scratch: os.Args[3], Artifacts: folder(".")})
	if err != nil {
		panic(err)
	}
	self, _ := os.Executable()
	b := &bench{Runtime: rt}
	r := b.submit(b.task([]string{self, "executor", "with-grandchild"}, "f"))
	<-r.done
	fmt.Printf("%d %s\n", rt.Processes()[0].PID, r.emitted[0].Data)
	select {}
}

func TestAKilledNodeTakesItsProcessesAlongAndTheNextOneTheRest(t *testing.T) {
	scratch := t.TempDir() + "/scratch"
	node := osexec.Command(goProgram(t, "parent")[0], "executor", "parent", scratch)
	node.Stderr = os.Stderr
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	var child, grandchild int
	if _, err := fmt.Fscan(out, &child, &grandchild); err != nil {
		t.Fatal(err)
	}
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait() // it was killed
	await(t, "the executor to be gone", func() bool { return !alive(child) })
	if !alive(grandchild) {
		t.Fatal("the grandchild is gone: nothing is left for the next node to do")
	}
	next, err := process.New(process.Settings{Scratch: scratch, Artifacts: folder(".")})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	await(t, "the grandchild to be gone", func() bool { return !alive(grandchild) })
}

func TestAFrozenProcessIsKilledWithTheNode(t *testing.T) {
	b := newBench(t, process.Settings{StopGrace: 100 * time.Millisecond})
	b.submit(b.task(goProgram(t, "functions"), "echo")).succeed()
	pid := b.Processes()[0].PID
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Fatal("it is still there")
	}
}
