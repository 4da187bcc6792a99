package host

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// maxGets bounds the objects that an attempt asks for before it takes an answer.
const maxGets = 64

// argAt is where a frame has its argument, which is a function's number in INVOKE.
const argAt = protocol.HeaderBytes - 4

// instance is one instance of the module: a goroutine that is in its _start, with
// at most one attempt.
type instance struct {
	h              *host
	wake           chan struct{} // capacity 1: there is something to read
	stdout, stderr lines

	// Its own goroutine's.
	greeted bool     // it has said HELLO
	numbers []uint32 // what it calls the functions of the first instance; nil: the same
	gets    int      // answers that it has not taken

	// Guarded by the host's mutex.
	attempt uint64 // 0: none
	invoked bool   // it has taken an attempt once
	queue   [][]byte
}

func newInstance(h *host) *instance {
	i := &instance{h: h, wake: make(chan struct{}, 1)}
	i.stdout = lines{i: i, stream: protocol.StreamStdout}
	i.stderr = lines{i: i, stream: protocol.StreamStderr}
	return i
}

// fault is what a module did against its interface. It ends the instance.
type fault string

func (f fault) Error() string { return string(f) }

// push adds a frame to what the module reads. The host's mutex is held.
func (i *instance) push(frame []byte) {
	i.queue = append(i.queue, frame)
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// unread returns a frame of that type that the module has not taken; nil if there
// is none. The host's mutex is held.
func (i *instance) unread(t protocol.Type) []byte {
	at := slices.IndexFunc(i.queue, func(f []byte) bool { return protocol.Type(f[4]) == t })
	if at < 0 {
		return nil
	}
	return i.queue[at]
}

// recv implements the import: it waits for a frame and copies it to address, if
// it has at most room bytes. It returns how many bytes the frame has.
func (i *instance) recv(m api.Memory, address, room uint32) uint32 {
	if !i.greeted {
		panic(fault("it called recv before it sent HELLO"))
	}
	for {
		i.h.mu.Lock()
		if len(i.queue) > 0 {
			break
		}
		i.h.mu.Unlock()
		<-i.wake
	}
	defer i.h.mu.Unlock()
	frame := i.queue[0]
	size := uint32(len(frame))
	if size > room {
		return size
	}
	if !m.Write(address, frame) {
		panic(fault("it called recv with a buffer outside of its memory"))
	}
	i.queue[0] = nil
	i.queue = i.queue[1:]
	switch protocol.Type(frame[4]) {
	case protocol.Invoke:
		i.invoked = true
		if arg := binary.LittleEndian.Uint32(frame[argAt:]); uint64(arg) < uint64(len(i.numbers)) {
			m.WriteUint32Le(address+argAt, i.numbers[arg])
		}
	case protocol.GetReply:
		i.gets--
	}
	return size
}

// waiting implements the import: the bytes of the frame that recv would return,
// 0 if it would wait.
func (i *instance) waiting() uint32 {
	i.h.mu.Lock()
	defer i.h.mu.Unlock()
	if len(i.queue) == 0 {
		return 0
	}
	return uint32(len(i.queue[0]))
}

// send implements the import: it passes on whole frames.
func (i *instance) send(frames *pieces) {
	i.h.mu.Lock()
	attempt, most := i.attempt, i.h.mu.maxBody
	i.h.mu.Unlock()
	ended := false
	for left := frames.size; left > 0; {
		if left < protocol.HeaderBytes {
			panic(fault("it sent a frame that is cut short"))
		}
		header, err := protocol.ParseHeader(frames.next(protocol.HeaderBytes))
		if err != nil {
			panic(fault("it sent a frame that is none: " + err.Error()))
		}
		left -= protocol.HeaderBytes
		body := uint64(header.BodyBytes)
		switch {
		case body > left:
			panic(fault(fmt.Sprintf("it sent a %s frame that is cut short", header.Type)))
		case header.BodyBytes > most:
			panic(fault(fmt.Sprintf("it sent a %s frame of %d bytes, at most %d are allowed", header.Type, header.BodyBytes, most)))
		case ended:
			panic(fault(fmt.Sprintf("it sent %s after the end of the attempt", header.Type)))
		}
		if header.Type == protocol.Hello && !i.greeted {
			i.hello(frames.next(body))
			return // what stands behind it is about no attempt
		}
		ended = i.checkFrame(header, attempt)
		frames.skip(body)
		left -= body
	}
	if ended {
		i.stdout.reset()
		i.stderr.reset()
		i.h.mu.Lock()
		i.h.free(i)
		i.h.mu.Unlock()
	}
	i.h.write(frames.all...)
	if ended {
		i.h.rest()
	}
}

// checkFrame tells whether a frame ends the attempt.
func (i *instance) checkFrame(header protocol.Header, attempt uint64) (ends bool) {
	switch header.Type {
	case protocol.Put, protocol.Join, protocol.Start, protocol.Get, protocol.Result, protocol.Error:
		if header.ID != attempt || attempt == 0 {
			panic(fault(fmt.Sprintf("it sent %s for attempt %d, which it does not have", header.Type, header.ID)))
		}
	case protocol.Log:
		if header.ID != attempt && header.ID != 0 {
			panic(fault(fmt.Sprintf("it sent LOG for attempt %d, which it does not have", header.ID)))
		}
	default:
		panic(fault(fmt.Sprintf("it sent %s, which a module does not send", header.Type)))
	}
	if header.Type == protocol.Get {
		if i.gets++; i.gets > maxGets {
			panic(fault(fmt.Sprintf("it asked for more than %d objects without taking an answer", maxGets)))
		}
	}
	return header.Type == protocol.Result || header.Type == protocol.Error
}

// hello takes the HELLO of the module. Each instance names the same functions.
func (i *instance) hello(text []byte) {
	var said protocol.ProcessHello
	if err := json.Unmarshal(text, &said); err != nil {
		panic(fault("its HELLO is not the JSON of a hello: " + err.Error()))
	}
	if !slices.Contains(said.Versions, protocol.Version) {
		panic(fault(fmt.Sprintf("it speaks protocol versions %v, this node speaks %d", said.Versions, protocol.Version)))
	}
	i.greeted = true
	h := i.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.names == nil {
		h.mu.names = append([]string{}, said.Functions...)
		h.greets <- greeting{names: h.mu.names, sdk: said.SDK}
	} else {
		numbers, err := translate(h.mu.names, said.Functions)
		if err != nil {
			panic(err)
		}
		i.numbers = numbers
	}
	if h.mu.welcome != nil {
		i.queue = slices.Insert(i.queue, 0, h.mu.welcome)
	}
}

// failure says why an instance ended in the middle of an attempt.
func (i *instance) failure(peak uint32, err error) protocol.Failure {
	f := protocol.Failure{Kind: "failed"}
	var broken fault
	var exit *sys.ExitError
	switch {
	case errors.As(err, &broken):
		f.Kind, f.Message = "refused", "the module broke its interface: "+broken.Error()
	case errors.As(err, &exit):
		f.Message = fmt.Sprintf("the module ended with exit code %d", exit.ExitCode())
	case err != nil:
		message, trace, _ := strings.Cut(err.Error(), "\n")
		f.Message, f.Detail = "the module trapped: "+message, trace
	default:
		f.Message = "the module returned from its main"
	}
	if uint64(peak) >= uint64(i.h.memory)/4*3 {
		f.Message += fmt.Sprintf("; it had %d MiB of memory, and its limit is %d MiB", peak>>20, i.h.memory>>20)
	}
	if last := i.stderr.kept(); last != "" {
		f.Detail = last + f.Detail
	}
	return f
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("exec/wasm/host: " + err.Error()) // only structs of strings come here
	}
	return text
}
