package process_test

import (
	"context"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
)

func TestRoomIsWhatProcessesWouldTakeAtOnce(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "one-at-a-time")
	if room := b.Room(b.task(command, "f").task); room != (exec.Room{Free: 1, Cold: true}) {
		t.Fatalf("before the program was started: %+v", room)
	}
	b.submit(b.task(command, "f")).succeed()
	if room := b.Room(b.task(command, "f").task); room != (exec.Room{Free: 1}) {
		t.Fatalf("with a process that is idle: %+v", room)
	}
	blocked, hold := b.occupy(command)
	if room := b.Room(b.task(command, "f").task); room != (exec.Room{}) {
		t.Fatalf("with one that is busy: %+v", room)
	}
	close(hold)
	blocked.succeed()
}

func TestATaskThatWaitsCanBeTakenBackAndTheOthersKeepTheirTurn(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "one-at-a-time")
	b.submit(b.task(command, "f")).succeed()
	blocked, hold := b.occupy(command)
	if b.Withdraw(blocked.task.Ref()) != nil {
		t.Fatal("what an executor has was taken back")
	}
	order := make(chan string, 10)
	var all []*run
	for _, name := range []string{"f", "g", "f", "h"} {
		r := b.task(command, name)
		r.task.Source = source(func(context.Context) ([]exec.Input, error) { order <- name; return nil, nil })
		all = append(all, b.submit(r))
	}
	for _, i := range []int{1, 2} {
		if got := b.Withdraw(all[i].task.Ref()); got != all[i].task {
			t.Fatalf("task %d: taken back %v", i, got)
		}
		if b.Withdraw(all[i].task.Ref()) != nil {
			t.Fatal("taken back twice")
		}
		b.Cancel(all[i].task.Ref()) // it is nobody's here
	}
	close(hold)
	blocked.succeed()
	all[0].succeed()
	all[3].succeed()
	b.submit(all[2]).succeed() // it may be submitted again
	if got := strings.Join([]string{<-order, <-order, <-order}, " "); got != "f h f" {
		t.Fatalf("they began in the order %s", got)
	}
	if all[1].started != "" || all[1].dones != 0 {
		t.Fatal("what was taken back was heard of")
	}
}
