package fn

import (
	"fmt"
	"time"
)

// Start starts a child session: a session of the same app that begins with
// function and has data as its input. Every attempt starts the same child, not
// another one. Without Into the child is independent: this session neither waits
// for it nor hears of it.
//
// ContentType and Meta describe the input; the other options of Put are refused.
func (c *Context) Start(function string, data []byte, opts ...StartOption) error {
	if function == "" || len(function) > maxNameBytes {
		return &RefusedError{fmt.Sprintf("%.80q is not the name of a function", function)}
	}
	e := Emission{StartFunction: function, Data: data}
	for _, opt := range opts {
		if err := opt.start(&e); err != nil {
			return err
		}
	}
	return c.emit(e, nil)
}

// StartOption adds to what Start starts: Into, StartTimeout, ContentType, Meta.
type StartOption interface {
	start(e *Emission) error
}

type startFunc func(e *Emission) error

func (f startFunc) start(e *Emission) error { return f(e) }

// Into has the session wait for the child's end. The child's result becomes an
// object of this session in bucket, under key or, if that is empty, the child's
// id: the one output of a completed child with its content type, else the JSON of
// its result. Its metadata tell the child and how it ended: pheromone-session and
// pheromone-status (completed, failed, cancelled).
func Into(bucket, key string) StartOption {
	return startFunc(func(e *Emission) error {
		if err := checkBucket(bucket); err != nil {
			return err
		}
		if key != "" {
			if err := checkKey(key); err != nil {
				return err
			}
		}
		e.Bucket, e.Key = bucket, key
		return nil
	})
}

// StartTimeout sets how long the child session may run before it fails. Without
// it, the app's session_timeout holds.
func StartTimeout(d time.Duration) StartOption {
	return startFunc(func(e *Emission) error {
		if d < minSessionTimeout || d > maxSessionTimeout {
			return &RefusedError{fmt.Sprintf("a child session runs for %s to %s, not for %s", minSessionTimeout, maxSessionTimeout, d)}
		}
		e.StartTimeout = d
		return nil
	})
}

// start makes an Option of Put one of Start, if it says something of the object
// alone.
func (o Option) start(e *Emission) error {
	o(e)
	if e.Output || e.DeliverAfter != 0 {
		return &RefusedError{"the input of a child session is no output and is not delayed: start it without AsOutput and DeliverAfter"}
	}
	return nil
}
