package fn

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
)

// Handler is a function: it gets the objects that made its trigger fire, and
// emits through ctx. What it returns decides the attempt.
type Handler func(ctx *Context, in []Object) error

// registry holds the functions of the program, in the order of registration.
var registry struct {
	sync.Mutex
	names    []string
	handlers map[string]Handler
}

// Handle registers h as the function name. It panics if the name is taken: a
// program says what it runs before Main, and says it once.
func Handle(name string, h Handler) {
	registry.Lock()
	defer registry.Unlock()
	if name == "" || h == nil {
		panic("fn: Handle needs a name and a handler")
	}
	if registry.handlers[name] != nil {
		panic(fmt.Sprintf("fn: function %q is registered twice", name))
	}
	if registry.handlers == nil {
		registry.handlers = make(map[string]Handler)
	}
	registry.names = append(registry.names, name)
	registry.handlers[name] = h
}

// HandleTyped registers a function that takes and gives JSON. One input object
// is decoded into In; several become the elements of a JSON array. What h
// returns is encoded and handed to Output, unless it encodes to null. An input
// that does not decode fails the invocation for good.
func HandleTyped[In, Out any](name string, h func(ctx *Context, in In) (Out, error)) {
	Handle(name, func(ctx *Context, objects []Object) error {
		var in In
		if err := json.Unmarshal(asJSON(objects), &in); err != nil {
			return Permanent(fmt.Errorf("the input of %s is not the JSON it takes: %w", name, err))
		}
		out, err := h(ctx, in)
		if err != nil {
			return err
		}
		data, err := json.Marshal(out)
		if err != nil {
			return Permanent(fmt.Errorf("encode the output of %s: %w", name, err))
		}
		if string(data) == "null" {
			return nil
		}
		return ctx.Output(data, ContentType("application/json"))
	})
}

func asJSON(objects []Object) []byte {
	if len(objects) == 1 {
		return objects[0].View()
	}
	array := []byte{'['}
	for i, o := range objects {
		if i > 0 {
			array = append(array, ',')
		}
		array = append(array, o.View()...)
	}
	return append(array, ']')
}

func registered() ([]string, []Handler) {
	registry.Lock()
	defer registry.Unlock()
	handlers := make([]Handler, len(registry.names))
	for i, name := range registry.names {
		handlers[i] = registry.handlers[name]
	}
	return slices.Clone(registry.names), handlers
}

// Permanent marks err as one that another attempt will not cure: the invocation
// fails at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// IsPermanent tells whether err, or an error it wraps, came from Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// PanicError is what Run returns for a handler that panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Run calls h, turning a panic into a PanicError. It is for those who run
// attempts: Main and package exec/inproc.
func Run(ctx *Context, h Handler, in []Object) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		ctx.end()
	}()
	return h(ctx, in)
}

// maxDetail bounds the stack that travels with a failure.
const maxDetail = 16 << 10

// Failure puts the error of an attempt into the words of the protocol: its kind
// (failed, permanent or refused), a message and a stack.
func Failure(err error) (kind, message, detail string) {
	kind = "failed"
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		kind = "refused"
	case IsPermanent(err):
		kind = "permanent"
	}
	var panicked *PanicError
	if errors.As(err, &panicked) {
		detail = string(panicked.Stack[:min(len(panicked.Stack), maxDetail)])
	}
	message = err.Error()
	return kind, message[:min(len(message), maxDetail)], detail
}
