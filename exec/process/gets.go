package process

import (
	"fmt"
	"sync"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	// maxGets is how many objects of a process's GETs are in memory at once: a GET counts
	// until its answer is taken.
	maxGets = 64
	// maxAsked is how many GETs of a process may wait for their turn.
	maxAsked = 1 << 14
)

// gets are the GETs of one process. Those that wait are names, and the process is read
// on meanwhile: it may have to send before it takes an answer.
type gets struct {
	sync.Mutex
	waiting   []asked
	answering int // goroutines
}

// asked is a GET.
type asked struct {
	call    *call
	request uint32
	bucket  spec.BucketName
	key     spec.Key
}

// get answers a GET, now or after others.
func (p *process) get(a asked) error {
	p.gets.Lock()
	defer p.gets.Unlock()
	if len(p.gets.waiting) == maxAsked {
		return protocol.Violation(fmt.Sprintf("it has asked for more than %d objects and takes none", maxAsked))
	}
	p.gets.waiting = append(p.gets.waiting, a)
	if p.gets.answering < maxGets {
		p.gets.answering++
		p.g.rt.wg.Go(p.answerGets)
	}
	return nil
}

// answerGets answers until nothing waits.
func (p *process) answerGets() {
	for {
		p.gets.Lock()
		if len(p.gets.waiting) == 0 {
			p.gets.answering--
			p.gets.Unlock()
			return
		}
		a := p.gets.waiting[0]
		p.gets.waiting[0] = asked{}
		if p.gets.waiting = p.gets.waiting[1:]; len(p.gets.waiting) == 0 {
			p.gets.waiting = nil
		}
		p.gets.Unlock()
		p.answerGet(a)
	}
}

func (p *process) answerGet(a asked) {
	var o exec.Input
	var err error = spec.Errorf(spec.CodeCancelled, "the attempt was cancelled")
	ctx, done := a.call.placing()
	if !a.call.ended.Load() {
		o, err = a.call.task.Sink.Get(ctx, a.call.task, a.bucket, a.key)
	}
	batch := batches.Get().(*protocol.Batch)
	encodeGetReply(batch, a.call, a.request, o, err)
	done()
	p.socket.hand(batch)
}
