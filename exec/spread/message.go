package spread

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// Methods of calls between nodes.
const (
	MethodRun    = "exec.run"
	MethodLoad   = "exec.load"
	MethodInputs = "exec.inputs"
)

// runArgs asks a node to run an attempt.
type runArgs struct {
	From           string            `json:"from"` // the leader's node
	App            spec.AppName      `json:"app"`
	Version        uint64            `json:"version"`
	Function       spec.FunctionName `json:"function"`
	Invocation     spec.InvocationID `json:"invocation"`
	Attempt        int               `json:"attempt"`
	Shard          spec.ShardID      `json:"shard"`
	Epoch          uint64            `json:"epoch"`
	Bucket         spec.BucketName   `json:"bucket"`
	Trigger        spec.TriggerName  `json:"trigger,omitempty"`
	Group          string            `json:"group,omitempty"`
	Window         time.Time         `json:"window,omitzero"`
	Traceparent    string            `json:"traceparent,omitempty"`
	Timeout        time.Duration     `json:"timeout"`
	MaxObjectBytes int64             `json:"max_object_bytes,omitempty"`
	Inputs         []byte            `json:"inputs"`
	InputBytes     int64             `json:"input_bytes"`
	Replica        bool              `json:"replica,omitempty"` // the node has a replica of the shard
	Silence        time.Duration     `json:"silence"`           // after which the leader's node takes the other for lost
}

func newRunArgs(from string, t *exec.Task, inputs []byte, bytes int64, replica bool, silence time.Duration) *runArgs {
	return &runArgs{
		From: from, App: t.App, Version: t.Version, Function: t.Function.Name, Invocation: t.Invocation, Attempt: t.Attempt,
		Shard: t.Shard, Epoch: t.Epoch, Bucket: t.Bucket, Trigger: t.Trigger, Group: t.Group, Window: t.Window,
		Traceparent: t.Traceparent, Timeout: t.Timeout, MaxObjectBytes: t.MaxObjectBytes,
		Inputs: inputs, InputBytes: bytes, Replica: replica, Silence: silence,
	}
}

// task is the attempt as the node that runs it sees it, but for how it reads its
// inputs and who hears of it.
func (a *runArgs) task(f *spec.Function, artifact string) *exec.Task {
	return &exec.Task{
		App: a.App, Version: a.Version, Artifact: artifact, Function: f, Invocation: a.Invocation, Attempt: a.Attempt,
		Shard: a.Shard, Epoch: a.Epoch, Bucket: a.Bucket, Trigger: a.Trigger, Group: a.Group, Window: a.Window,
		Traceparent: a.Traceparent, Timeout: a.Timeout, MaxObjectBytes: a.MaxObjectBytes,
	}
}

// Heads of frames. Room is the room there is for the function on the node that
// runs the attempt, as it was when the frame was made.
type startedHead struct {
	Executor string    `json:"executor"`
	Room     exec.Room `json:"room"`
}

type emittedHead struct {
	Emissions []emission `json:"emissions"`
}

type doneHead struct {
	Emissions []emission    `json:"emissions,omitempty"`
	Failure   *exec.Failure `json:"failure,omitempty"`
	Local     bool          `json:"local"` // all inputs were read from the node's own copy
	Room      exec.Room     `json:"room"`
}

type returnedHead struct {
	Why  string    `json:"why"`
	Room exec.Room `json:"room"`
}

type wantedHead struct {
	ID     uint64          `json:"id"`
	Bucket spec.BucketName `json:"bucket"`
	Key    spec.Key        `json:"key"`
}

type objectHead struct {
	ID    uint64     `json:"id"`
	Error *fault     `json:"error,omitempty"`
	Input *inputHead `json:"input,omitempty"`
}

// fault is an error with what its receiver acts on.
type fault struct {
	Code    spec.Code `json:"code"`
	Message string    `json:"message"`
}

func faultOf(err error) *fault {
	if err == nil {
		return nil
	}
	return &fault{spec.CodeOf(err), err.Error()}
}

func (f *fault) error() error {
	if f == nil {
		return nil
	}
	return spec.Errorf(f.Code, "%s", f.Message)
}

// inputHead is an exec.Input without its bytes.
type inputHead struct {
	Bucket      spec.BucketName   `json:"bucket"`
	Key         spec.Key          `json:"key"`
	Session     spec.SessionID    `json:"session"`
	ContentType string            `json:"content_type,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
	Deleted     bool              `json:"deleted,omitempty"`
}

func headOf(in *exec.Input) *inputHead {
	return &inputHead{in.Bucket, in.Key, in.Session, in.ContentType, in.Meta, in.Deleted}
}

func (h *inputHead) input(data []byte) exec.Input {
	return exec.Input{Bucket: h.Bucket, Key: h.Key, Session: h.Session, ContentType: h.ContentType, Meta: h.Meta, Deleted: h.Deleted, Data: data}
}

// emission is an exec.Emission without its bytes, which stand in the frame's data.
type emission struct {
	Seq          uint64            `json:"seq"`
	Bucket       spec.BucketName   `json:"bucket"`
	Key          spec.Key          `json:"key,omitempty"`
	Size         int64             `json:"size"`
	ContentType  string            `json:"content_type,omitempty"`
	Meta         map[string]string `json:"meta,omitempty"`
	Output       bool              `json:"output,omitempty"`
	DeliverAfter time.Duration     `json:"deliver_after,omitempty"`
	JoinTrigger  spec.TriggerName  `json:"join_trigger,omitempty"`
	JoinKeys     []spec.Key        `json:"join_keys,omitempty"`
	Child        *exec.ChildStart  `json:"child,omitempty"`
}

func pack(list []exec.Emission) (heads []emission, data [][]byte) {
	heads, data = make([]emission, len(list)), make([][]byte, len(list))
	for i := range list {
		e := &list[i]
		heads[i] = emission{
			e.Seq, e.Bucket, e.Key, int64(len(e.Data)), e.ContentType, e.Meta, e.Output, e.DeliverAfter, e.JoinTrigger, e.JoinKeys, e.Child,
		}
		if data[i] = e.Data; e.Lent { // it is sent later than it may be read
			data[i] = bytes.Clone(e.Data)
		}
	}
	return heads, data
}

func unpack(heads []emission, data []byte) ([]exec.Emission, error) {
	list := make([]exec.Emission, len(heads))
	for i := range heads {
		h := &heads[i]
		if h.Size < 0 || h.Size > int64(len(data)) {
			return nil, fmt.Errorf("emission %d has %d bytes: %w", h.Seq, h.Size, io.ErrUnexpectedEOF)
		}
		own := data[:h.Size:h.Size]
		if own == nil && h.JoinTrigger == "" {
			own = []byte{} // an object without bytes
		}
		list[i] = exec.Emission{
			Seq: h.Seq, Bucket: h.Bucket, Key: h.Key, Data: own, ContentType: h.ContentType, Meta: h.Meta, Output: h.Output,
			DeliverAfter: h.DeliverAfter, JoinTrigger: h.JoinTrigger, JoinKeys: h.JoinKeys, Child: h.Child,
		}
		data = data[h.Size:]
	}
	if len(data) > 0 {
		return nil, errors.New("bytes of no emission")
	}
	return list, nil
}

// sendable refuses what JSON would change on its way: the leader refuses names that
// are no UTF-8, and has to see them as they are.
func sendable(list []exec.Emission) error {
	bad := func(what string, e *exec.Emission) error {
		return spec.Errorf(spec.CodeInvalid, "%s of the object for bucket %q is not UTF-8", what, e.Bucket)
	}
	for i := range list {
		e := &list[i]
		switch {
		case !utf8.ValidString(string(e.Bucket)) || !utf8.ValidString(string(e.JoinTrigger)):
			return bad("a name", e)
		case !utf8.ValidString(string(e.Key)):
			return bad("the key", e)
		case !utf8.ValidString(e.ContentType):
			return bad("the content type", e)
		}
		for _, key := range e.JoinKeys {
			if !utf8.ValidString(string(key)) {
				return bad("a key to join", e)
			}
		}
		for name, value := range e.Meta {
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				return bad("the metadata", e)
			}
		}
	}
	return nil
}
