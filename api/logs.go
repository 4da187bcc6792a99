package api

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/pheromone-run/pheromone/spec/wire"
)

const (
	defaultTail = 100
	maxTail     = 10_000
)

// lineStream is the form of JSON lines. Nothing is sent while there is nothing
// to say, since an empty line is no JSON.
var lineStream = streamFormat{
	contentType: "application/jsonl",
	report: func(err error) []byte {
		_, e := errorOf(err)
		return line(wire.ErrorBody{Error: e})
	},
}

// getLogs answers what functions printed: JSON lines, or server-sent events for
// a client that accepts those.
func getLogs(r *request) error {
	function, err := r.functionParam()
	if err != nil {
		return err
	}
	tail, err := r.query.number("tail", defaultTail, 0, maxTail)
	if err != nil {
		return err
	}
	follow, err := r.query.flag("follow")
	if err != nil {
		return err
	}
	format, write := lineStream, func(l wire.LogLine) []byte { return line(l) }
	if strings.Contains(string(r.fh.Request.Header.Peek("Accept")), eventStream.contentType) {
		format, write = eventStream, func(l wire.LogLine) []byte { return event("", "log", l) }
	}
	return r.startStream(format, func(ctx context.Context, send func([]byte) error) error {
		return r.s.backend.Logs(ctx, r.app, function, int(tail), follow, func(l wire.LogLine) error {
			return send(write(l))
		})
	})
}

func line(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // wire types always encode
	}
	return append(out, '\n')
}
