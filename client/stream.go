package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// maxSilence is four times what a server waits between two comments.
const maxSilence = time.Minute

// WatchOptions says what to follow.
type WatchOptions struct {
	Prefix string
	// From is the Position of an event; the watch goes on behind it. Empty watches
	// from now on.
	From string
}

// Watch yields what happens to a bucket's key-value objects, without gaps. It
// connects again when the connection breaks, from the last position, until ctx
// ends, the caller stops, or the server refuses: CodeGone says that the position
// is not kept any more, its Hint where to go on. An error is the last thing it
// yields; the end of ctx is none.
func (c *Client) Watch(ctx context.Context, app spec.AppName, bucket spec.BucketName, o WatchOptions) iter.Seq2[wire.WatchEvent, error] {
	position := o.From
	return follow(ctx, c, followed[wire.WatchEvent]{
		again: true,
		request: func() request {
			query := url.Values{}
			if o.Prefix != "" {
				query.Set("prefix", o.Prefix)
			}
			if position != "" {
				query.Set("from", position)
			}
			return get("watch "+string(bucket), route("apps", string(app), "buckets", string(bucket), "watch"), query)
		},
		take: func(id string, e *wire.WatchEvent) bool {
			if e.Position == "" {
				e.Position = id
			}
			if e.Position != "" {
				position = e.Position
			}
			return e.Type != "" // an event without one only carries the position
		},
	})
}

// LogsOptions says which lines to yield.
type LogsOptions struct {
	Function spec.FunctionName // empty: all of the app
	Tail     int               // how many of the lines that are there; the server's default if 0
	Follow   bool              // go on with new lines until ctx ends
}

// Logs yields what an app's functions printed, oldest first. Following connects
// again when the connection breaks; lines of the time between may be lost if the
// node that kept them is gone. An error is the last thing it yields.
func (c *Client) Logs(ctx context.Context, app spec.AppName, o LogsOptions) iter.Seq2[wire.LogLine, error] {
	var seen seenLines
	return follow(ctx, c, followed[wire.LogLine]{
		again: o.Follow,
		request: func() request {
			query := url.Values{}
			if o.Function != "" {
				query.Set("function", string(o.Function))
			}
			if o.Tail > 0 {
				query.Set("tail", strconv.Itoa(o.Tail))
			}
			if o.Follow {
				query.Set("follow", "1")
			}
			seen.reconnect()
			return get("logs of "+string(app), route("apps", string(app), "logs"), query)
		},
		take: func(_ string, line *wire.LogLine) bool { return seen.isNew(line) },
	})
}

// seenLines drops the lines that a new connection repeats.
type seenLines struct {
	last   time.Time
	atLast map[wire.LogLine]bool // lines of that very time
	until  time.Time             // what is older than this was yielded on an earlier connection
}

func (s *seenLines) reconnect() { s.until = s.last }

func (s *seenLines) isNew(line *wire.LogLine) bool {
	if line.Time.Before(s.until) || line.Time.Equal(s.until) && s.atLast[*line] {
		return false
	}
	if line.Time.After(s.last) {
		s.last, s.atLast = line.Time, nil
	}
	if line.Time.Equal(s.last) && len(s.atLast) < 1000 {
		if s.atLast == nil {
			s.atLast = map[wire.LogLine]bool{}
		}
		s.atLast[*line] = true
	}
	return true
}

// followed is a stream of events: how to ask for it, and what to do with each.
type followed[T any] struct {
	request func() request
	take    func(id string, item *T) bool // false: don't yield it
	again   bool                          // connect again at the end of the stream
}

func follow[T any](ctx context.Context, c *Client, f followed[T]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		connected := false
		for attempt := 1; ; attempt++ {
			got, stop, err := followOnce(ctx, c, f, yield)
			switch {
			case stop || ctx.Err() != nil:
				return
			case err == nil && !f.again:
				return
			case err != nil && !(f.again && (connected || got) && mayComeBack(err)):
				yield(none, err)
				return
			}
			if got {
				connected, attempt = true, 1
			}
			if !pause(ctx, c.backoff(attempt)) {
				return
			}
		}
	}
}

// followOnce yields the events of one connection. Got says that there was one,
// stop that the caller wants no more.
func followOnce[T any](ctx context.Context, c *Client, f followed[T], yield func(T, error) bool) (got, stop bool, err error) {
	// A stream that shows no sign of life, not even a comment, has lost its server.
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var silent atomic.Bool
	silence := time.AfterFunc(maxSilence, func() {
		silent.Store(true)
		hangUp()
	})
	defer silence.Stop()
	r := f.request()
	r.header = http.Header{"Accept": {"text/event-stream"}}
	resp, err := c.do(ctx, r)
	if err != nil {
		return false, false, err
	}
	defer resp.Body.Close()
	events := newEventReader(readFunc(func(b []byte) (int, error) {
		silence.Reset(maxSilence)
		return resp.Body.Read(b)
	}))
	for {
		e, err := events.next()
		broken := err != nil && !errors.Is(err, errEventTooLarge) && (ctx.Err() == nil || silent.Load())
		if f.again && (broken || e.kind == "error" && mayComeBack(streamError(r.op, e.data))) {
			c.servers.lost(resp.from) // the next connection goes elsewhere, if it can
			c.discovery.due(true)
		}
		switch {
		case errors.Is(err, io.EOF):
			return true, false, nil
		case errors.Is(err, errEventTooLarge):
			return true, false, &Error{Op: r.op, Err: spec.Errorf(spec.CodeTooLarge, "%w", err)}
		case err != nil:
			return true, false, &Error{Op: r.op, sent: true, Err: spec.Errorf(spec.CodeUnavailable, "the stream broke off: %w", err)}
		}
		if e.kind == "error" {
			return true, false, streamError(r.op, e.data)
		}
		var item T
		if len(e.data) > 0 {
			if err := json.Unmarshal(e.data, &item); err != nil {
				return true, false, &Error{Op: r.op, Err: spec.Errorf(spec.CodeInternal, "an event of the stream is not what was expected: %w", err)}
			}
		}
		if f.take(e.id, &item) && !yield(item, nil) {
			return true, true, nil
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

func streamError(op string, data []byte) *Error {
	var said wire.ErrorBody
	if err := json.Unmarshal(data, &said); err != nil || said.Error.Code == "" {
		return &Error{Op: op, Err: spec.Errorf(spec.CodeInternal, "the stream ended with an error that can't be read")}
	}
	return &Error{Op: op, Err: &spec.Error{Code: said.Error.Code, Message: said.Error.Message, Field: said.Error.Field, Hint: said.Error.Hint}}
}

func mayComeBack(err error) bool {
	code := spec.CodeOf(err)
	return code == spec.CodeUnavailable || code == spec.CodeOverloaded || code == spec.CodeTimeout
}
