package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// eventStream is the form of server-sent events.
var eventStream = streamFormat{
	contentType: "text/event-stream",
	report: func(err error) []byte {
		_, e := errorOf(err)
		return event("", "error", wire.ErrorBody{Error: e})
	},
	idle: []byte(":\n\n"),
}

// watch follows a bucket's key-value objects. An event's id is the position
// after it, which a client that comes back sends as Last-Event-ID.
func watch(r *request) error {
	w := Watch{App: r.app, Bucket: r.bucket, Prefix: r.query.get("prefix"), From: r.query.get("from")}
	if err := checkPrefix(w.Prefix); err != nil {
		return err
	}
	last, err := r.header("Last-Event-Id")
	if err != nil {
		return err
	}
	if last != "" {
		if len(last) > maxQueryValueBytes || strings.ContainsFunc(last, isControl) {
			return spec.Errorf(spec.CodeInvalid, "bad Last-Event-ID %q: send the id of an event of this watch", clip(last)).WithField("Last-Event-ID")
		}
		w.From = last
	}
	return r.startStream(eventStream, func(ctx context.Context, send func([]byte) error) error {
		return r.s.backend.Watch(ctx, w, func(e wire.WatchEvent) error {
			if e.Type == "" {
				return send(event(e.Position, "position", map[string]string{"position": e.Position}))
			}
			return send(event(e.Position, e.Type, e))
		})
	})
}

// event writes one server-sent event. JSON has no line breaks of its own.
func event(id, kind string, data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("encode %s event: %v", kind, err)) // wire types always encode
	}
	var out bytes.Buffer
	if id != "" && !strings.ContainsFunc(id, isControl) {
		out.WriteString("id: " + id + "\n")
	}
	out.WriteString("event: " + kind + "\ndata: ")
	out.Write(text)
	out.WriteString("\n\n")
	return out.Bytes()
}
