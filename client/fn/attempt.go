package fn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// attempt is one INVOKE being worked on: the Transport of its Context.
type attempt struct {
	c      *connection
	id     uint64
	inv    Invocation
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   context.CancelFunc

	inputs  stay
	mu      sync.Mutex
	created map[*place]bool // and not sent; guarded by mu, as over
	over    bool            // what is created now has nobody who sends it
}

func (a *attempt) run(h Handler, in []Object) error {
	// Inputs can't be written to. Who tries fails this attempt, not all of them.
	debug.SetPanicOnFault(true)
	err := a.c.memory.explain(Run(NewContext(a.ctx, a.inv, a), h, in))
	a.stop()
	a.cancel(ErrEnded)
	a.inputs.end()
	a.discard()
	a.c.finish(a, err)
	return err
}

// Poll takes what the node has said meanwhile, where nobody else does.
func (a *attempt) Poll() { a.c.poll() }

// Emit implements Transport.
func (a *attempt) Emit(e Emission) error {
	switch size := len(e.Data); {
	case size >= protocol.SharedBytes && a.ctx.Err() == nil && a.c.memory.copyOf(&e):
		if !a.own(e.place) {
			return ErrEnded
		}
	case size < flushBytes:
		e.Data = bytes.Clone(e.Data)
	}
	return a.EmitOwned(e)
}

// EmitOwned implements Transport.
func (a *attempt) EmitOwned(e Emission) error {
	a.c.poll()
	if e.place != nil {
		a.mu.Lock()
		mine := a.created[e.place]
		delete(a.created, e.place)
		a.mu.Unlock()
		if !mine { // it was freed with the attempt
			return ErrEnded
		}
	}
	if a.ctx.Err() != nil {
		a.c.memory.free(e.place)
		return context.Cause(a.ctx)
	}
	var space [256]byte
	var total int
	inline := e.Data
	if e.place != nil {
		inline = nil
	}
	switch {
	case e.JoinTrigger != "":
		fields := protocol.AppendField(space[:0], protocol.TagBucket, e.Bucket)
		fields = protocol.AppendField(fields, protocol.TagTrigger, e.JoinTrigger)
		for _, key := range e.JoinKeys {
			fields = protocol.AppendField(fields, protocol.TagKey, key)
		}
		total = a.c.add(protocol.Header{Type: protocol.Join, ID: a.id}, fields)
	case e.StartFunction != "":
		total = a.c.add(protocol.Header{Type: protocol.Start, ID: a.id}, appendStart(space[:0], e), inline)
	default:
		h := protocol.Header{Type: protocol.Put, ID: a.id}
		if e.Output {
			h.Flags = protocol.FlagOutput
		}
		total = a.c.add(h, appendPut(space[:0], e), inline)
	}
	if total >= flushBytes {
		return a.c.flush()
	}
	a.c.flushSoon()
	return nil
}

func appendPut(fields []byte, e Emission) []byte {
	fields = appendObject(fields, e)
	if e.DeliverAfter > 0 {
		fields = protocol.AppendUint(fields, protocol.TagDeliverAfter, uint64(e.DeliverAfter))
	}
	return fields
}

func appendStart(fields []byte, e Emission) []byte {
	fields = appendObject(fields, e)
	fields = protocol.AppendField(fields, protocol.TagFunction, e.StartFunction)
	if e.StartTimeout > 0 {
		fields = protocol.AppendUint(fields, protocol.TagTimeout, uint64(e.StartTimeout))
	}
	return fields
}

func appendObject(fields []byte, e Emission) []byte {
	d := protocol.Descriptor{Length: uint64(len(e.Data))}
	if e.place != nil {
		d.Kind, d.Offset = protocol.KindOutput, uint64(e.place.span.Offset)
	}
	fields = protocol.AppendObject(fields, d)
	if e.Bucket != "" {
		fields = protocol.AppendField(fields, protocol.TagBucket, e.Bucket)
	}
	if e.Key != "" {
		fields = protocol.AppendField(fields, protocol.TagKey, e.Key)
	}
	if e.ContentType != "" {
		fields = protocol.AppendField(fields, protocol.TagContentType, e.ContentType)
	}
	for name, value := range e.Meta {
		fields = protocol.AppendMeta(fields, name, value)
	}
	return fields
}

// create implements creator.
func (a *attempt) create(size int) ([]byte, *place) {
	if size < protocol.SharedBytes {
		return nil, nil
	}
	data, at := a.c.memory.create(size)
	if at != nil && !a.own(at) {
		return nil, nil
	}
	return data, at
}

// own has a place freed with the attempt unless it is sent. It returns false, and has
// freed it, if the attempt has ended.
func (a *attempt) own(at *place) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		a.c.memory.free(at)
		return false
	}
	if a.created == nil {
		a.created = make(map[*place]bool)
	}
	a.created[at] = true
	return true
}

// discard gives back what was created and not committed.
func (a *attempt) discard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at := range a.created {
		a.c.memory.free(at)
	}
	a.created, a.over = nil, true
}

// Log implements Transport. A text over the bound is cut into several lines. They
// are sent at once: they are wanted most when the program dies of what comes next.
func (a *attempt) Log(text string) {
	var lines [][]byte
	for {
		line := text[:min(len(text), protocol.MaxLogBytes)]
		lines = append(lines, []byte(line))
		text = text[len(line):]
		if text == "" {
			break
		}
	}
	a.c.sendLog(a.id, lines)
}

type getReply struct {
	object Object
	err    error
}

// Get implements Transport. What was put before is sent first, so that it is seen.
func (a *attempt) Get(ctx context.Context, bucket, key string) (Object, error) {
	c := a.c
	reply := make(chan getReply, 1)
	c.mu.Lock()
	c.mu.lastGet++
	number := c.mu.lastGet
	c.mu.gets[number] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.mu.gets, number)
		c.mu.Unlock()
	}()

	fields := protocol.AppendField(nil, protocol.TagBucket, bucket)
	fields = protocol.AppendField(fields, protocol.TagKey, key)
	c.add(protocol.Header{Type: protocol.Get, ID: a.id, Arg: number}, fields)
	if err := c.flush(); err != nil {
		return Object{}, err
	}
	if err := c.readUntil(reply); err != nil {
		return Object{}, err
	}
	select {
	case r := <-reply:
		if r.err == nil {
			r.object.Bucket, r.object.Key = bucket, key
			a.lends(&r.object)
			if r.object.Session == "" {
				r.object.Session = a.inv.Session
			}
		}
		return r.object, r.err
	case <-ctx.Done():
		return Object{}, context.Cause(ctx)
	}
}

func (c *connection) getReply(f protocol.Frame) error {
	c.mu.Lock()
	waiting := c.mu.gets[f.Arg]
	delete(c.mu.gets, f.Arg) // a second reply to one request finds nobody
	c.mu.Unlock()
	if waiting == nil {
		return nil // its attempt was cancelled meanwhile
	}
	if f.Flags&protocol.FlagFound == 0 {
		var e protocol.Failure
		if err := json.Unmarshal(f.Payload, &e); err != nil {
			return fmt.Errorf("a GET_REPLY of the node: %w", err)
		}
		waiting <- getReply{err: getError(e)}
		return nil
	}
	if !f.Owned {
		f.Fields, f.Payload = bytes.Clone(f.Fields), bytes.Clone(f.Payload)
	}
	_, objects, err := parseFields(f, c.memory)
	if err != nil || len(objects) != 1 {
		return fmt.Errorf("a GET_REPLY of the node with %d objects: %w", len(objects), err)
	}
	waiting <- getReply{object: objects[0]}
	return nil
}

// lends has an object's bytes stay as long as the attempt.
func (a *attempt) lends(o *Object) {
	if o.lent != nil {
		o.lent.until = &a.inputs
	}
}

func getError(e protocol.Failure) error {
	if e.Kind == "not_found" {
		return fmt.Errorf("%s: %w", e.Message, ErrNotFound)
	}
	return errors.New(e.Message)
}

func (c *connection) parseInvoke(f protocol.Frame) (*attempt, []Object, error) {
	fields, in, err := parseFields(f, c.memory)
	if err != nil {
		return nil, nil, err
	}
	a := &attempt{c: c, id: f.ID, inv: fields.inv}
	if int(f.Arg) < len(c.names) {
		a.inv.Function = c.names[f.Arg]
	}
	a.inv.ID = a.inv.Session + "." + strconv.FormatUint(fields.number, 10)
	if a.inv.MaxObjectBytes == 0 {
		a.inv.MaxObjectBytes = c.limits.MaxObjectBytes
	}
	for i := range in {
		a.lends(&in[i])
		if in[i].Bucket == "" {
			in[i].Bucket = a.inv.Bucket
		}
		if in[i].Session == "" {
			in[i].Session = a.inv.Session
		}
	}
	a.ctx, a.cancel = context.WithCancelCause(c.ctx)
	a.stop = func() {}
	if fields.timeout > 0 {
		a.ctx, a.stop = withDeadline(a.ctx, fields.timeout)
	}
	return a, in, nil
}

var (
	errDeadline  = errors.New("the attempt has passed its deadline")
	errCancelled = errors.New("the attempt was cancelled: its result counts no more")
	errEmission  = errors.New("something that the attempt put was refused")
)

func cancelCause(reason uint32) error {
	switch reason {
	case protocol.CancelTimeout:
		return errDeadline
	case protocol.CancelRefused:
		return errEmission
	default:
		return errCancelled
	}
}

// attemptFields is what the fields of a frame say of the attempt.
type attemptFields struct {
	inv     Invocation
	number  uint64
	timeout time.Duration
}

// parseFields decodes the fields of an INVOKE or a GET_REPLY. Fields with
// unknown tags are passed over: they are from a newer node.
func parseFields(f protocol.Frame, m *memory) (attemptFields, []Object, error) {
	var a attemptFields
	var objects []Object
	object := func() *Object { return &objects[len(objects)-1] }
	for rest := f.Fields; len(rest) > 0; {
		tag, value, next, err := protocol.NextField(rest)
		if err != nil {
			return a, nil, err
		}
		rest = next
		if len(objects) > 0 && tag != protocol.TagObject {
			if err := objectField(object(), tag, value); err != nil {
				return a, nil, err
			}
			continue
		}
		var n uint64
		switch tag {
		case protocol.TagNumber, protocol.TagAttempt, protocol.TagTimeout, protocol.TagWindow, protocol.TagMaxObject:
			if n, err = protocol.Uint(tag, value); err != nil {
				return a, nil, err
			}
		}
		switch tag {
		case protocol.TagSession:
			a.inv.Session = string(value)
		case protocol.TagNumber:
			a.number = n
		case protocol.TagAttempt:
			a.inv.Attempt = int(n)
		case protocol.TagTimeout:
			a.timeout = time.Duration(n)
		case protocol.TagBucket:
			a.inv.Bucket = string(value)
		case protocol.TagTrigger:
			a.inv.Trigger = string(value)
		case protocol.TagGroup:
			a.inv.Group = string(value)
		case protocol.TagWindow:
			a.inv.Window = time.Unix(0, int64(n)).UTC()
		case protocol.TagTraceparent:
			a.inv.Traceparent = string(value)
		case protocol.TagMaxObject:
			a.inv.MaxObjectBytes = int64(n)
		case protocol.TagObject:
			o, err := m.object(value, f.Payload)
			if err != nil {
				return a, nil, err
			}
			objects = append(objects, o)
		}
	}
	return a, objects, nil
}

func objectField(o *Object, tag protocol.Tag, value []byte) error {
	switch tag {
	case protocol.TagBucket:
		o.Bucket = string(value)
	case protocol.TagKey:
		o.Key = string(value)
	case protocol.TagSession:
		o.Session = string(value)
	case protocol.TagContentType:
		o.ContentType = string(value)
	case protocol.TagDeleted:
		o.Deleted = true
	case protocol.TagMeta:
		name, content, err := protocol.Meta(value)
		if err != nil {
			return err
		}
		if o.Meta == nil {
			o.Meta = make(map[string]string)
		}
		o.Meta[name] = content
	}
	return nil
}
