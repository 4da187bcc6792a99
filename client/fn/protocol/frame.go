package protocol

import (
	"encoding/binary"
	"fmt"
)

// Version is the protocol version spoken here.
const Version = 1

const (
	// HeaderBytes is the size of a frame's header.
	HeaderBytes = 24
	// MaxFieldBytes bounds the fields of one frame: a join of some 500,000 short
	// keys fits.
	MaxFieldBytes = 16 << 20
	// MaxTextBytes bounds the JSON of hello, error and goodbye frames.
	MaxTextBytes = 1 << 20
	// MaxLogBytes bounds the text of a log frame.
	MaxLogBytes = 8 << 10
	// FD is the descriptor of the socket that an executor inherits.
	FD = 3
	// InputFD and OutputFD are the descriptors of the memory that it shares with the
	// node, if the variable MemoryVariable is set. The node writes the first, the
	// executor the second.
	InputFD  = 4
	OutputFD = 5
	// SharedBytes is the size from which on an object's bytes go through memory.
	SharedBytes = 64 << 10
)

// MemoryVariable is set for a program that finds memory behind InputFD and OutputFD.
const MemoryVariable = "PHEROMONE_MEMORY"

// Type says what a frame is.
type Type uint8

// The frame types. N is the node, P the executor process.
const (
	Hello    Type = 1  // both ways, first: JSON
	Invoke   Type = 2  // N→P: run an attempt
	Put      Type = 3  // P→N: an attempt puts an object
	Join     Type = 4  // P→N: an attempt names the set of a dynamic_join
	Get      Type = 5  // P→N: an attempt reads an object of its session
	GetReply Type = 6  // N→P
	Log      Type = 7  // P→N: a line of log
	Result   Type = 8  // P→N: the attempt succeeded
	Error    Type = 9  // P→N: the attempt failed: JSON
	Cancel   Type = 10 // N→P: stop the attempt
	Ping     Type = 11 // both ways
	Pong     Type = 12 // both ways
	Goodbye  Type = 13 // both ways: no further attempts on this connection
	Start    Type = 14 // P→N: an attempt starts a child session
	Release  Type = 15 // N→P: parts of the output memory are the process's again
	Fork     Type = 16 // N→P, and the answer: fork an executor
	Reap     Type = 17 // N→P, and the answer: how an executor ended

	lastType = Reap
)

var typeNames = [...]string{
	"", "HELLO", "INVOKE", "PUT", "JOIN", "GET", "GET_REPLY", "LOG", "RESULT", "ERROR", "CANCEL", "PING", "PONG", "GOODBYE", "START", "RELEASE", "FORK", "REAP",
}

func (t Type) String() string {
	if t >= 1 && t <= lastType {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// ForkVariable is set for a program that may fork executors. It says in its HELLO
// whether it will.
const ForkVariable = "PHEROMONE_FORK"

const (
	// FlagOutput marks a Put as an output of the session.
	FlagOutput uint8 = 1
	// FlagFound marks a GetReply that carries the object.
	FlagFound uint8 = 1
	// FlagKnown marks the answer to a Reap that carries the wait status.
	FlagKnown uint8 = 1
)

// Streams of a Log frame, in its Arg.
const (
	StreamLog    uint32 = 0
	StreamStdout uint32 = 1
	StreamStderr uint32 = 2
)

// Reasons of a Cancel frame, in its Arg.
const (
	CancelAsked   uint32 = 0 // the session was cancelled or the attempt is superseded
	CancelTimeout uint32 = 1 // the deadline has passed
	CancelRefused uint32 = 2 // something that the attempt emitted was refused
)

// Header is the fixed part of a frame: 24 bytes, little endian.
type Header struct {
	BodyBytes  uint32 // fields and payload together
	Type       Type
	Flags      uint8
	ID         uint64 // of the attempt on this connection; 0 for none
	FieldBytes uint32 // length of the fields; the payload is the rest of the body
	Arg        uint32 // function index, request number, stream, reason or process, by type
}

// Append appends the encoded header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.BodyBytes)
	b = append(b, uint8(h.Type), h.Flags, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, h.ID)
	b = binary.LittleEndian.AppendUint32(b, h.FieldBytes)
	return binary.LittleEndian.AppendUint32(b, h.Arg)
}

// ParseHeader decodes and checks the first HeaderBytes of b.
func ParseHeader(b []byte) (Header, error) {
	h := Header{
		BodyBytes:  binary.LittleEndian.Uint32(b),
		Type:       Type(b[4]),
		Flags:      b[5],
		ID:         binary.LittleEndian.Uint64(b[8:]),
		FieldBytes: binary.LittleEndian.Uint32(b[16:]),
		Arg:        binary.LittleEndian.Uint32(b[20:]),
	}
	switch {
	case h.Type < 1 || h.Type > lastType:
		return h, Violation(fmt.Sprintf("unknown frame type %d", b[4]))
	case b[6] != 0 || b[7] != 0:
		return h, Violation(fmt.Sprintf("%s frame: the reserved header bytes are not zero", h.Type))
	case h.FieldBytes > h.BodyBytes:
		return h, Violation(fmt.Sprintf("%s frame: %d bytes of fields in a body of %d", h.Type, h.FieldBytes, h.BodyBytes))
	case h.FieldBytes > MaxFieldBytes:
		return h, Violation(fmt.Sprintf("%s frame: %d bytes of fields, at most %d are allowed", h.Type, h.FieldBytes, MaxFieldBytes))
	case h.Type == Log && h.BodyBytes-h.FieldBytes > MaxLogBytes:
		return h, Violation(fmt.Sprintf("LOG frame of %d bytes, at most %d are allowed", h.BodyBytes-h.FieldBytes, MaxLogBytes))
	case isText(h.Type) && h.BodyBytes-h.FieldBytes > MaxTextBytes:
		return h, Violation(fmt.Sprintf("%s frame of %d bytes, at most %d are allowed", h.Type, h.BodyBytes-h.FieldBytes, MaxTextBytes))
	}
	return h, nil
}

func isText(t Type) bool { return t == Hello || t == Error || t == Goodbye || t == Fork || t == Reap }

// Frame is a header and its body. Fields and Payload are valid until the next
// call of Reader.Next, unless Owned says that they belong to the frame alone.
type Frame struct {
	Header
	Fields  []byte
	Payload []byte
	Owned   bool
}

// Violation is what a peer did against the protocol. It ends the connection.
type Violation string

func (v Violation) Error() string { return string(v) }
