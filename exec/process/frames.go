package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

var (
	batches     = sync.Pool{New: func() any { return new(protocol.Batch) }}
	fieldBuffer = sync.Pool{New: func() any { return new([]byte) }}
)

// encodeInvoke puts the INVOKE frame of a call into batch.
func encodeInvoke(batch *protocol.Batch, c *call, function int, in []exec.Input, limit int64) error {
	t := c.task
	buffer := fieldBuffer.Get().(*[]byte)
	defer fieldBuffer.Put(buffer)
	b := (*buffer)[:0]
	b = protocol.AppendField(b, protocol.TagSession, t.Invocation.Session)
	b = protocol.AppendUint(b, protocol.TagNumber, t.Invocation.Number)
	b = protocol.AppendUint(b, protocol.TagAttempt, uint64(t.Attempt))
	b = protocol.AppendUint(b, protocol.TagTimeout, uint64(t.Timeout))
	b = protocol.AppendField(b, protocol.TagBucket, t.Bucket)
	b = protocol.AppendField(b, protocol.TagTrigger, t.Trigger)
	if t.Group != "" {
		b = protocol.AppendField(b, protocol.TagGroup, t.Group[:min(len(t.Group), 1<<16-1)])
	}
	if !t.Window.IsZero() {
		b = protocol.AppendUint(b, protocol.TagWindow, uint64(t.Window.UnixNano()))
	}
	if t.Traceparent != "" && len(t.Traceparent) < 256 {
		b = protocol.AppendField(b, protocol.TagTraceparent, t.Traceparent)
	}
	if c.maxObject() < c.rt.s.MaxObjectBytes {
		b = protocol.AppendUint(b, protocol.TagMaxObject, uint64(c.maxObject()))
	}
	payload := make([][]byte, len(in))
	var size, inline int64
	for i := range in {
		o := &in[i]
		size += int64(len(o.Data))
		var d protocol.Descriptor
		d, payload[i] = c.describe(o.Data, inline)
		inline += int64(len(payload[i]))
		b = protocol.AppendObject(b, d)
		b = appendInput(b, t, o)
	}
	*buffer = b
	if size > limit {
		return fmt.Errorf("the %d inputs have %d bytes together, at most %d fit one attempt", len(in), size, limit)
	}
	if len(b) > protocol.MaxFieldBytes {
		return fmt.Errorf("the keys and metadata of %d inputs have %d bytes together, at most %d fit one attempt", len(in), len(b), protocol.MaxFieldBytes)
	}
	batch.Add(protocol.Header{Type: protocol.Invoke, ID: c.id, Arg: uint32(function)}, b, payload...)
	return nil
}

// appendInput describes an object; what equals the attempt's own is left out.
func appendInput(b []byte, t *exec.Task, o *exec.Input) []byte {
	if o.Bucket != t.Bucket {
		b = protocol.AppendField(b, protocol.TagBucket, o.Bucket)
	}
	b = protocol.AppendField(b, protocol.TagKey, o.Key)
	if o.Session != t.Invocation.Session && o.Session != "" {
		b = protocol.AppendField(b, protocol.TagSession, o.Session)
	}
	if o.ContentType != "" && len(o.ContentType) < 1<<16 {
		b = protocol.AppendField(b, protocol.TagContentType, o.ContentType)
	}
	for name, value := range o.Meta {
		if len(name)+len(value) <= protocol.MaxMetaFieldBytes {
			b = protocol.AppendMeta(b, name, value)
		}
	}
	if o.Deleted {
		b = protocol.AppendField(b, protocol.TagDeleted, "")
	}
	return b
}

// decodePut makes an emission of a PUT frame.
func decodePut(f protocol.Frame, m *memory) (exec.Emission, protocol.Descriptor, error) {
	e := exec.Emission{Output: f.Flags&protocol.FlagOutput != 0}
	object, at, err := decodeObject(&e, f, m, func(tag protocol.Tag, value []byte) error {
		if tag != protocol.TagDeliverAfter {
			return nil
		}
		d, err := decodeDuration(tag, value)
		e.DeliverAfter = d
		return err
	})
	if err == nil && (!object || e.Bucket == "") {
		err = protocol.Violation("a PUT without an object or a bucket")
	}
	return e, at, err
}

// decodeStart makes an emission of a START frame.
func decodeStart(f protocol.Frame, m *memory) (exec.Emission, protocol.Descriptor, error) {
	e := exec.Emission{Child: &exec.ChildStart{}}
	object, at, err := decodeObject(&e, f, m, func(tag protocol.Tag, value []byte) error {
		var err error
		switch tag {
		case protocol.TagFunction:
			e.Child.Function = spec.FunctionName(value)
		case protocol.TagTimeout:
			e.Child.Timeout, err = decodeDuration(tag, value)
		}
		return err
	})
	switch {
	case err != nil:
	case !object || e.Child.Function == "":
		err = protocol.Violation("a START without an object or a function")
	case e.Bucket == "" && e.Key != "":
		err = protocol.Violation("a START with a key and without a bucket")
	case e.Child.Timeout != 0 && (e.Child.Timeout < spec.MinSessionTimeout || e.Child.Timeout > spec.MaxSessionTimeout):
		err = protocol.Violation(fmt.Sprintf("a START with a timeout of %s, a child session runs for %s to %s", e.Child.Timeout, spec.MinSessionTimeout, spec.MaxSessionTimeout))
	}
	return e, at, err
}

func decodeDuration(tag protocol.Tag, value []byte) (time.Duration, error) {
	n, err := protocol.Uint(tag, value)
	return time.Duration(min(n, 1<<62)), err
}

// decodeObject fills in what PUT and START have in common, passes the other fields
// to other, and tells whether there was an object, and where. Data of a frame that
// is not owned is copied; that in memory is lent.
func decodeObject(e *exec.Emission, f protocol.Frame, m *memory, other func(protocol.Tag, []byte) error) (object bool, at protocol.Descriptor, err error) {
	for rest := f.Fields; len(rest) > 0; {
		tag, value, next, err := protocol.NextField(rest)
		if err != nil {
			return object, at, err
		}
		rest = next
		switch tag {
		case protocol.TagObject:
			if object {
				return object, at, twoObjects(f)
			}
			if at, err = protocol.ParseDescriptor(value); err == nil {
				e.Data, err = m.object(at, f.Payload)
			}
			if err != nil {
				return object, at, err
			}
			object, e.Lent = true, at.Kind == protocol.KindOutput
		case protocol.TagBucket:
			e.Bucket = spec.BucketName(value)
		case protocol.TagKey:
			e.Key = spec.Key(value)
		case protocol.TagContentType:
			e.ContentType = string(value)
		case protocol.TagMeta:
			name, content, err := protocol.Meta(value)
			if err != nil {
				return object, at, err
			}
			if e.Meta == nil {
				e.Meta = make(map[string]string)
			}
			e.Meta[name] = content
		default:
			if err := other(tag, value); err != nil {
				return object, at, err
			}
		}
	}
	if !f.Owned && !e.Lent {
		e.Data = bytes.Clone(e.Data)
	}
	if e.Data == nil {
		e.Data = []byte{}
	}
	return object, at, nil
}

// outputOf returns where in the outputs the object is of a frame that is dropped, if
// it has one there.
func outputOf(f protocol.Frame) (parts []protocol.Descriptor, err error) {
	object := false
	for rest := f.Fields; len(rest) > 0; {
		tag, value, next, err := protocol.NextField(rest)
		if err != nil {
			return nil, err
		}
		rest = next
		if tag != protocol.TagObject {
			continue
		}
		if object {
			return nil, twoObjects(f)
		}
		d, err := protocol.ParseDescriptor(value)
		if err != nil {
			return nil, err
		}
		object = true
		if d.Kind == protocol.KindOutput {
			parts = append(parts, d)
		}
	}
	return parts, nil
}

func twoObjects(f protocol.Frame) error {
	return protocol.Violation(fmt.Sprintf("a %s with two objects", f.Type))
}

func decodeJoin(f protocol.Frame, _ *memory) (exec.Emission, protocol.Descriptor, error) {
	var e exec.Emission
	var none protocol.Descriptor
	for rest := f.Fields; len(rest) > 0; {
		tag, value, next, err := protocol.NextField(rest)
		if err != nil {
			return e, none, err
		}
		rest = next
		switch tag {
		case protocol.TagBucket:
			e.Bucket = spec.BucketName(value)
		case protocol.TagTrigger:
			e.JoinTrigger = spec.TriggerName(value)
		case protocol.TagKey:
			e.JoinKeys = append(e.JoinKeys, spec.Key(value))
		}
	}
	if e.Bucket == "" || e.JoinTrigger == "" {
		return e, none, protocol.Violation("a JOIN without a bucket or a trigger")
	}
	return e, none, nil
}

func decodeGet(f protocol.Frame) (bucket spec.BucketName, key spec.Key, err error) {
	for rest := f.Fields; len(rest) > 0; {
		tag, value, next, err := protocol.NextField(rest)
		if err != nil {
			return "", "", err
		}
		rest = next
		switch tag {
		case protocol.TagBucket:
			bucket = spec.BucketName(value)
		case protocol.TagKey:
			key = spec.Key(value)
		}
	}
	if bucket == "" || key == "" {
		return "", "", protocol.Violation("a GET without a bucket or a key")
	}
	return bucket, key, nil
}

// encodeGetReply puts the answer to a GET into batch.
func encodeGetReply(batch *protocol.Batch, c *call, request uint32, o exec.Input, err error) {
	h := protocol.Header{Type: protocol.GetReply, ID: c.id, Arg: request}
	if err != nil {
		batch.Add(h, nil, mustJSON(protocol.Failure{Kind: string(spec.CodeOf(err)), Message: err.Error()}))
		return
	}
	h.Flags = protocol.FlagFound
	d, inline := c.describe(o.Data, 0)
	batch.Add(h, appendInput(protocol.AppendObject(nil, d), c.task, &o), inline)
}

// maxDetail bounds the detail of a failure, and its message.
const maxDetail = 16 << 10

// decodeError makes a failure of an ERROR frame.
func decodeError(f protocol.Frame) (*exec.Failure, error) {
	var e protocol.Failure
	if err := json.Unmarshal(f.Payload, &e); err != nil {
		return nil, protocol.Violation("an ERROR whose text is not the JSON of a failure: " + err.Error())
	}
	out := &exec.Failure{Kind: exec.Failed, Message: cut(e.Message), Detail: cut(e.Detail)}
	if e.Kind == exec.Permanent || e.Kind == exec.Refused {
		out.Kind = e.Kind
	}
	return out, nil
}

func cut(s string) string { return s[:min(len(s), maxDetail)] }

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("exec/process: " + err.Error()) // only structs of strings and numbers come here
	}
	return text
}
