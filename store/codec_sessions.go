package store

import "github.com/pheromone-run/pheromone/spec"

// The least number of bytes that an entry of a list can have.
const (
	functionCountBytes = 4
	inputRefBytes      = 6
	attemptBytes       = 5
)

// AppendSession appends the record of a session.
func AppendSession(dst []byte, s *Session) []byte {
	dst = appendUint(append(dst, recordVersion), s.AppVersion)
	dst = append(dst, byte(s.State))
	dst = appendInt(dst, s.Created)
	dst = appendInt(dst, s.Ended)
	dst = appendInt(dst, s.Purge)
	dst = appendOrigin(dst, &s.Origin)
	for _, n := range [...]uint64{s.Invocations, s.Pending, s.Timers, s.Mail, s.Objects, s.Outputs, s.Blobs, s.Held, s.Machines} {
		dst = appendUint(dst, n)
	}
	dst = appendFailure(dst, s.Failure)
	dst = appendBuckets(dst, s.Buckets)
	dst = appendBuckets(dst, s.OutputBuckets)
	dst = appendUint(dst, uint64(len(s.Functions)))
	for i := range s.Functions {
		f := &s.Functions[i]
		dst = appendString(dst, f.Function)
		dst = appendUint(dst, f.Pending)
		dst = appendUint(dst, f.Total)
		dst = appendUint(dst, uint64(len(f.Parents)))
		for _, p := range f.Parents {
			dst = appendString(dst, p)
		}
	}
	dst = appendInt(dst, s.Deadline)
	dst = appendParent(dst, s.Parent)
	return appendUint(appendUint(dst, s.Children), s.Awaited)
}

// DecodeSession reads the record of a session.
func DecodeSession(src []byte) (Session, error) {
	r := openRecord(src)
	s := Session{
		AppVersion:  r.uint(),
		State:       SessionState(r.byte()),
		Created:     r.micros(),
		Ended:       r.micros(),
		Purge:       r.micros(),
		Origin:      r.origin(),
		Invocations: r.uint(),
		Pending:     r.uint(),
		Timers:      r.uint(),
		Mail:        r.uint(),
		Objects:     r.uint(),
		Outputs:     r.uint(),
		Blobs:       r.uint(),
		Held:        r.uint(),
		Machines:    r.uint(),
		Failure:     r.failure(),
		Buckets:     list(&r, 1, (*recordReader).bucket),

		OutputBuckets: list(&r, 1, (*recordReader).bucket),
		Functions:     list(&r, functionCountBytes, (*recordReader).functionCount),
	}
	if r.version >= 2 {
		s.Deadline, s.Parent, s.Children, s.Awaited = r.micros(), r.parent(), r.uint(), r.uint()
	}
	return s, r.done("session")
}

func appendParent(dst []byte, p *Parent) []byte {
	dst = appendBool(dst, p != nil)
	if p == nil {
		return dst
	}
	return appendUint(appendBool(appendString(dst, p.Session), p.Awaited), uint64(p.Depth))
}

func (r *recordReader) parent() *Parent {
	if !r.bool() {
		return nil
	}
	return &Parent{Session: spec.SessionID(r.string()), Awaited: r.bool(), Depth: r.uint32()}
}

// AppendChild appends what a session keeps of a child session.
func AppendChild(dst []byte, c *Child) []byte {
	dst = appendString(append(dst, recordVersion), c.Function)
	dst = append(appendInt(appendInt(dst, c.Started), c.Ended), byte(c.State))
	dst = appendString(appendString(appendBool(dst, c.Awaited), c.Bucket), c.Key)
	return appendUint(dst, c.Producer)
}

// DecodeChild reads what a session keeps of a child session.
func DecodeChild(src []byte) (Child, error) {
	r := openRecord(src)
	c := Child{
		Function: spec.FunctionName(r.string()), Started: r.micros(), Ended: r.micros(), State: SessionState(r.byte()),
		Awaited: r.bool(), Bucket: spec.BucketName(r.string()), Key: spec.Key(r.string()), Producer: r.uint(),
	}
	return c, r.done("child")
}

func appendBuckets(dst []byte, buckets []spec.BucketName) []byte {
	dst = appendUint(dst, uint64(len(buckets)))
	for _, b := range buckets {
		dst = appendString(dst, b)
	}
	return dst
}

func (r *recordReader) bucket() spec.BucketName { return spec.BucketName(r.string()) }

func appendOrigin(dst []byte, o *Origin) []byte {
	dst = append(dst, byte(o.Kind))
	dst = appendString(dst, o.Bucket)
	dst = appendString(dst, o.Key)
	dst = appendUint(dst, uint64(o.Revision))
	dst = appendString(dst, o.Trigger)
	return appendString(dst, o.Session)
}

func (r *recordReader) origin() Origin {
	return Origin{
		Kind: OriginKind(r.byte()), Bucket: spec.BucketName(r.string()), Key: spec.Key(r.string()),
		Revision: spec.Revision(r.uint()), Trigger: spec.TriggerName(r.string()), Session: spec.SessionID(r.string()),
	}
}

func (r *recordReader) functionCount() FunctionCount {
	return FunctionCount{
		Function: spec.FunctionName(r.string()), Pending: r.uint(), Total: r.uint(),
		Parents: list(r, 1, func(r *recordReader) spec.FunctionName { return spec.FunctionName(r.string()) }),
	}
}

func appendFailure(dst []byte, f *Failure) []byte {
	dst = appendBool(dst, f != nil)
	if f == nil {
		return dst
	}
	dst = appendString(dst, f.Kind)
	dst = appendString(dst, f.Message)
	dst = appendString(dst, f.Detail)
	dst = appendString(dst, f.Function)
	dst = appendUint(dst, f.Invocation)
	return appendUint(dst, uint64(f.Attempts))
}

func (r *recordReader) failure() *Failure {
	if !r.bool() {
		return nil
	}
	return &Failure{
		Kind: r.string(), Message: r.string(), Detail: r.string(),
		Function: spec.FunctionName(r.string()), Invocation: r.uint(), Attempts: r.uint32(),
	}
}

// AppendInvocation appends the record of an invocation.
func AppendInvocation(dst []byte, v *Invocation) []byte {
	dst = appendString(append(dst, recordVersion), v.Function)
	dst = append(dst, byte(v.State))
	dst = appendString(dst, v.Bucket)
	dst = appendString(dst, v.Trigger)
	dst = appendString(dst, v.Group)
	dst = appendInt(dst, v.Window)
	dst = appendUint(dst, uint64(len(v.Inputs)))
	for i := range v.Inputs {
		in := &v.Inputs[i]
		dst = appendString(dst, in.Bucket)
		dst = appendString(dst, in.Key)
		dst = appendUint(dst, uint64(in.Revision))
		dst = appendUint(dst, in.Producer)
		dst = appendBool(dst, in.Held)
		dst = appendString(dst, in.Source)
	}
	dst = appendInt(dst, v.Queued)
	dst = appendInt(dst, v.Ended)
	dst = appendInt(dst, v.Next)
	dst = appendUint(dst, uint64(v.Tries))
	dst = appendUint(dst, uint64(v.Lost))
	dst = appendUint(dst, uint64(len(v.Attempts)))
	for i := range v.Attempts {
		a := &v.Attempts[i]
		dst = appendUint(dst, uint64(a.Number))
		dst = appendInt(dst, a.Started)
		dst = appendInt(dst, a.Ended)
		dst = appendString(dst, a.Executor)
		dst = appendFailure(dst, a.Failure)
	}
	dst = appendUint(dst, uint64(len(v.Joins)))
	for _, j := range v.Joins {
		dst = appendUint(dst, j)
	}
	dst = appendBool(dst, v.Handled)
	dst = appendString(dst, v.Traceparent)
	dst = appendUint(dst, uint64(len(v.Expects)))
	for _, e := range v.Expects {
		dst = appendString(appendString(dst, e.Bucket), e.Trigger)
		dst = appendUint(appendInt(dst, e.Due), uint64(e.Runs))
	}
	return dst
}

const expectBytes = 4

func (r *recordReader) expect() Expect {
	return Expect{Bucket: spec.BucketName(r.string()), Trigger: spec.TriggerName(r.string()), Due: r.micros(), Runs: r.uint32()}
}

// DecodeInvocation reads the record of an invocation.
func DecodeInvocation(src []byte) (Invocation, error) {
	r := openRecord(src)
	v := Invocation{
		Function:    spec.FunctionName(r.string()),
		State:       InvocationState(r.byte()),
		Bucket:      spec.BucketName(r.string()),
		Trigger:     spec.TriggerName(r.string()),
		Group:       r.string(),
		Window:      r.micros(),
		Inputs:      list(&r, inputRefBytes, (*recordReader).inputRef),
		Queued:      r.micros(),
		Ended:       r.micros(),
		Next:        r.micros(),
		Tries:       r.uint32(),
		Lost:        r.uint32(),
		Attempts:    list(&r, attemptBytes, (*recordReader).attempt),
		Joins:       list(&r, 1, (*recordReader).uint),
		Handled:     r.bool(),
		Traceparent: r.string(),
		Expects:     list(&r, expectBytes, (*recordReader).expect),
	}
	return v, r.done("invocation")
}

func (r *recordReader) inputRef() InputRef {
	return InputRef{
		Bucket: spec.BucketName(r.string()), Key: spec.Key(r.string()), Revision: spec.Revision(r.uint()),
		Producer: r.uint(), Held: r.bool(), Source: spec.SessionID(r.string()),
	}
}

func (r *recordReader) attempt() Attempt {
	return Attempt{Number: r.uint32(), Started: r.micros(), Ended: r.micros(), Executor: r.string(), Failure: r.failure()}
}

// AppendShardMeta appends the state machine's record.
func AppendShardMeta(dst []byte, m *ShardMeta) []byte {
	dst = appendUint(append(dst, recordVersion), m.Applied)
	return appendUint(appendUint(dst, m.Epoch), m.Seq)
}

// DecodeShardMeta reads the state machine's record.
func DecodeShardMeta(src []byte) (ShardMeta, error) {
	r := openRecord(src)
	m := ShardMeta{Applied: r.uint(), Epoch: r.uint(), Seq: r.uint()}
	return m, r.done("shard")
}

// AppendCounters appends the leader's record.
func AppendCounters(dst []byte, c *Counters) []byte {
	dst = appendUint(append(dst, recordVersion), uint64(c.Revision))
	return appendUint(appendUint(dst, c.Mail), uint64(c.Compacted))
}

// DecodeCounters reads the leader's record.
func DecodeCounters(src []byte) (Counters, error) {
	r := openRecord(src)
	c := Counters{Revision: spec.Revision(r.uint()), Mail: r.uint(), Compacted: spec.Revision(r.uint())}
	return c, r.done("counters")
}

// AppendCount appends a bare number: a blob's references, an inbox mark.
func AppendCount(dst []byte, n uint64) []byte { return appendUint(append(dst, recordVersion), n) }

// DecodeCount reads a bare number.
func DecodeCount(src []byte) (uint64, error) {
	r := openRecord(src)
	n := r.uint()
	return n, r.done("count")
}
