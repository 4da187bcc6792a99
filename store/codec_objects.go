package store

import (
	"encoding/binary"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
)

// AppendObject appends the record of an object.
func AppendObject(dst []byte, o *Object) []byte {
	if dst == nil {
		dst = make([]byte, 0, o.room())
	}
	return appendObjectFields(append(dst, recordVersion), o)
}

// room is what the record of an object takes at most, or nearly so.
func (o *Object) room() int {
	room := 64 + len(o.Session) + len(o.Key) + len(o.ContentType) + len(o.Inline)
	for name, value := range o.Meta {
		room += 4 + len(name) + len(value)
	}
	if o.Blob != nil {
		room += 64
	}
	return room
}

// DecodeObject reads the record of an object. Inline is a part of src, not a copy.
func DecodeObject(src []byte) (Object, error) {
	r := openRecord(src)
	o := r.object()
	return o, r.done("object")
}

func appendObjectFields(dst []byte, o *Object) []byte {
	dst = appendUint(dst, uint64(o.Revision))
	dst = appendInt(dst, o.Created)
	dst = appendInt(dst, o.Expires)
	dst = appendInt(dst, o.Deliver)
	dst = appendUint(dst, o.Producer)
	dst = appendString(dst, o.Session)
	dst = appendString(dst, o.Key)
	dst = appendInt(dst, o.Size)
	dst = appendString(dst, o.ContentType)
	dst = appendMap(dst, o.Meta)
	dst = appendBool(dst, o.Output)
	dst = appendString(dst, o.Inline)
	dst = appendBool(dst, o.Blob != nil)
	if o.Blob != nil {
		dst = appendBlobFields(dst, o.Blob)
	}
	return appendBool(dst, o.Deleted)
}

func (r *recordReader) object() Object {
	o := Object{
		Revision:    spec.Revision(r.uint()),
		Created:     r.micros(),
		Expires:     r.micros(),
		Deliver:     r.micros(),
		Producer:    r.uint(),
		Session:     spec.SessionID(r.string()),
		Key:         spec.Key(r.string()),
		Size:        r.int(),
		ContentType: r.string(),
		Meta:        r.stringMap(),
		Output:      r.bool(),
		Inline:      r.bytes(),
	}
	if r.bool() {
		b := r.blob()
		o.Blob = &b
	}
	if r.version >= 2 {
		o.Deleted = r.bool()
	}
	return o
}

func appendBlobFields(dst []byte, b *Blob) []byte {
	dst = append(dst, b.ID[:]...)
	dst = appendInt(dst, b.Size)
	dst = appendUint(dst, uint64(b.Chunks))
	dst = append(dst, byte(b.Codec))
	dst = binary.LittleEndian.AppendUint32(dst, b.CRC)
	return append(dst, b.Sum[:]...)
}

func (r *recordReader) blob() (b Blob) {
	r.fixed(b.ID[:])
	b.Size = r.int()
	b.Chunks = r.uint32()
	b.Codec = Codec(r.byte())
	var crc [4]byte
	r.fixed(crc[:])
	b.CRC = binary.LittleEndian.Uint32(crc[:])
	r.fixed(b.Sum[:])
	return b
}

// AppendBlob appends the record of a blob, for those who keep blobs of their own.
func AppendBlob(dst []byte, b *Blob) []byte { return appendBlobFields(append(dst, recordVersion), b) }

// DecodeBlob reads the record of a blob.
func DecodeBlob(src []byte) (Blob, error) {
	r := openRecord(src)
	b := r.blob()
	return b, r.done("blob")
}

// AppendEvent appends the record of a change.
func AppendEvent(dst []byte, e *Event) []byte {
	if dst == nil {
		dst = make([]byte, 0, len(e.App)+len(e.Bucket)+len(e.Key)+e.Object.room())
	}
	dst = append(dst, recordVersion, byte(e.Kind))
	dst = appendString(dst, e.App)
	dst = appendString(dst, e.Bucket)
	dst = appendString(dst, e.Key)
	return appendObjectFields(dst, &e.Object)
}

// DecodeEvent reads the record of a change. Object.Inline is a part of src.
func DecodeEvent(src []byte) (Event, error) {
	r := openRecord(src)
	e := Event{
		Kind: EventKind(r.byte()), App: spec.AppName(r.string()), Bucket: spec.BucketName(r.string()),
		Key: spec.Key(r.string()), Object: r.object(),
	}
	return e, r.done("event")
}

// DecodeEventApp reads the kind and the app of a change, for those who read many.
func DecodeEventApp(src []byte) (EventKind, spec.AppName, error) {
	r := openRecord(src)
	kind, app := EventKind(r.byte()), spec.AppName(r.string())
	if r.err != nil {
		return 0, "", fmt.Errorf("store: event: %w", r.err)
	}
	return kind, app, nil
}

// AppendMail appends a message to another shard.
func AppendMail(dst []byte, m *Mail) []byte {
	dst = appendUint(append(dst, recordVersion), uint64(m.Slot))
	dst = appendString(dst, m.App)
	dst = appendString(dst, m.Bucket)
	dst = appendString(dst, m.Trigger)
	dst = appendString(dst, m.Session)
	dst = appendObjectFields(dst, &m.Object)
	dst = appendBool(dst, m.Kind == MailSet) // all that version 1 told of the kind
	dst = appendUint(dst, uint64(len(m.Keys)))
	for _, key := range m.Keys {
		dst = appendString(dst, key)
	}
	dst = appendString(append(dst, byte(m.Kind)), m.To)
	dst = appendParent(appendInt(append(dst, byte(m.State)), m.Deadline), m.Parent)
	return appendUint(dst, m.Incarnation)
}

// DecodeMail reads a message to another shard. Object.Inline is a part of src.
func DecodeMail(src []byte) (Mail, error) {
	r := openRecord(src)
	slot := r.uint()
	if slot >= spec.Slots {
		r.fail(errVarint)
	}
	m := Mail{
		Kind: MailObject,
		Slot: spec.Slot(slot), App: spec.AppName(r.string()), Bucket: spec.BucketName(r.string()),
		Trigger: spec.TriggerName(r.string()), Session: spec.SessionID(r.string()), Object: r.object(),
	}
	if r.bool() {
		m.Kind = MailSet
	}
	m.Keys = list(&r, 1, func(r *recordReader) spec.Key { return spec.Key(r.string()) })
	if r.version >= 2 {
		m.Kind, m.To = MailKind(r.byte()), spec.SessionID(r.string())
		m.State, m.Deadline, m.Parent = SessionState(r.byte()), r.micros(), r.parent()
	}
	m.Incarnation = AnyIncarnation
	if r.version >= 3 {
		m.Incarnation = r.uint()
	}
	return m, r.done("mail")
}

// AppendItem appends the record of an object that a trigger's machine keeps.
func AppendItem(dst []byte, i *Item) []byte {
	dst = appendString(append(dst, recordVersion), i.Key)
	dst = appendString(dst, i.Group)
	return appendInt(dst, i.Time)
}

// DecodeItem reads the record of an item.
func DecodeItem(src []byte) (Item, error) {
	r := openRecord(src)
	i := Item{Key: spec.Key(r.string()), Group: r.string(), Time: r.micros()}
	return i, r.done("item")
}

// AppendNamedSet appends the record of a set that waits for a trigger's machine.
func AppendNamedSet(dst []byte, s *NamedSet) []byte {
	dst = appendInt(append(dst, recordVersion), s.Time)
	dst = appendUint(dst, uint64(len(s.Keys)))
	for _, key := range s.Keys {
		dst = appendString(dst, key)
	}
	return dst
}

// DecodeNamedSet reads the record of a set.
func DecodeNamedSet(src []byte) (NamedSet, error) {
	r := openRecord(src)
	s := NamedSet{Time: r.micros(), Keys: list(&r, 1, func(r *recordReader) spec.Key { return spec.Key(r.string()) })}
	return s, r.done("named set")
}

// AppendTriggerState appends the record of a trigger's state.
func AppendTriggerState(dst []byte, s *TriggerState) []byte {
	dst = appendInt(append(dst, recordVersion), s.Timer)
	dst = appendString(dst, s.Header)
	return appendUint(appendString(dst, s.Primitive), s.Stalled)
}

// DecodeTriggerState reads the record of a trigger's state. Header is a part of src.
func DecodeTriggerState(src []byte) (TriggerState, error) {
	r := openRecord(src)
	s := TriggerState{Timer: r.micros(), Header: r.bytes(), Primitive: spec.Primitive(r.string())}
	if r.version >= 2 {
		s.Stalled = r.uint()
	}
	return s, r.done("trigger state")
}

// AppendIncarnation appends the record of an app's incarnation.
func AppendIncarnation(dst []byte, incarnation uint64) []byte {
	return appendUint(append(dst, recordVersion), incarnation)
}

// DecodeIncarnation reads the record of an app's incarnation.
func DecodeIncarnation(src []byte) (uint64, error) {
	r := openRecord(src)
	incarnation := r.uint()
	return incarnation, r.done("incarnation")
}

// AppendRequest appends the record of a request with an idempotency key.
func AppendRequest(dst []byte, q *Request) []byte {
	if dst == nil {
		dst = make([]byte, 0, 48+len(q.Session)+len(q.Bucket)+len(q.Key))
	}
	dst = appendString(append(dst, recordVersion), q.Session)
	dst = appendString(dst, q.Bucket)
	dst = appendString(dst, q.Key)
	dst = appendUint(dst, uint64(q.Revision))
	dst = appendInt(dst, q.Expires)
	return appendUint(dst, q.Fingerprint)
}

// DecodeRequest reads the record of a request.
func DecodeRequest(src []byte) (Request, error) {
	r := openRecord(src)
	q := Request{
		Session: spec.SessionID(r.string()), Bucket: spec.BucketName(r.string()), Key: spec.Key(r.string()),
		Revision: spec.Revision(r.uint()), Expires: r.micros(), Fingerprint: r.uint(),
	}
	return q, r.done("request")
}
