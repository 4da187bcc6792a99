package fn_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

func TestMain(m *testing.M) {
	fn.Handle("f", func(ctx *fn.Context, in []fn.Object) error { return nil })
	nodetest.MainWithoutLeaks(m)
}

// node answers the program's HELLO and returns its end of the connection.
func node(t *testing.T) (conn net.Conn, served chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	served = make(chan error, 1)
	go func() { served <- fn.Serve(context.Background(), theirs) }()
	f, err := protocol.NewReader(ours, 1<<20).Next()
	if err != nil || f.Type != protocol.Hello || !strings.Contains(string(f.Payload), `"functions":["f"]`) {
		t.Fatalf("the program began with %+v %s, %v", f.Header, f.Payload, err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	return ours, served
}

func send(t *testing.T, conn net.Conn, h protocol.Header, fields []byte, payload string) {
	t.Helper()
	var b protocol.Batch
	b.Add(h, fields, []byte(payload))
	if _, err := conn.Write(b.Parts()[0]); err != nil {
		t.Fatal(err)
	}
}

const welcome = `{"version":1,"app":"a","executor":"a-1","max_object_bytes":100}`

func TestTheProgramRefusesANodeThatBreaksTheProtocol(t *testing.T) {
	outside := protocol.AppendObject(nil, protocol.Descriptor{Offset: 5, Length: 100})
	for _, c := range []struct {
		name    string
		welcome string
		header  protocol.Header
		fields  []byte
		says    string
	}{
		{"another version", `{"version":2}`, protocol.Header{}, nil, "version 2"},
		{"no JSON", `{`, protocol.Header{}, nil, "hello"},
		{"a frame of the wrong direction", welcome, protocol.Header{Type: protocol.Result}, nil, "RESULT"},
		{"a start of a child session", welcome, protocol.Header{Type: protocol.Start}, nil, "START"},
		{"an object outside of the payload", welcome, protocol.Header{Type: protocol.Invoke, ID: 1}, outside, "payload"},
		{"fields that are cut short", welcome, protocol.Header{Type: protocol.Invoke, ID: 1}, []byte{1, 0, 9, 0}, "claims 9 bytes"},
		{"a function that is not there", welcome, protocol.Header{Type: protocol.Invoke, ID: 1, Arg: 7}, nil, "function 7"},
		{"an unknown type", welcome, protocol.Header{Type: 77}, nil, "type 77"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, served := node(t)
			send(t, conn, protocol.Header{Type: protocol.Hello}, nil, c.welcome)
			if c.header.Type != 0 {
				send(t, conn, c.header, c.fields, "")
			}
			select {
			case err := <-served:
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want one that says %q", err, c.says)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it goes on")
			}
		})
	}
}

func TestGoodbyeEndsTheProgramOnceItsAttemptsAreDone(t *testing.T) {
	conn, served := node(t)
	send(t, conn, protocol.Header{Type: protocol.Hello}, nil, welcome)
	send(t, conn, protocol.Header{Type: protocol.Invoke, ID: 1}, nil, "")
	f, err := protocol.NewReader(conn, 1<<20).Next()
	if err != nil || f.Type != protocol.Result || f.ID != 1 {
		t.Fatalf("%+v, %v", f.Header, err)
	}
	send(t, conn, protocol.Header{Type: protocol.Goodbye}, nil, "{}")
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

// nowhere is a transport that nothing may reach.
type nowhere struct{ fn.Transport }

func TestWhatBreaksABoundIsRefusedBeforeItIsSent(t *testing.T) {
	ctx := fn.NewContext(context.Background(), fn.Invocation{MaxObjectBytes: 10}, nowhere{})
	_, createErr := ctx.Create("b", "k", 11)
	for name, err := range map[string]error{
		"no key":                           ctx.Put("b", "", nil),
		"a long key":                       ctx.Put("b", strings.Repeat("k", 1025), nil),
		"a large object":                   ctx.Put("b", "k", make([]byte, 11)),
		"a large buffer":                   createErr,
		"no bucket":                        ctx.Put("", "k", nil),
		"much metadata":                    ctx.Put("b", "k", nil, fn.Meta("m", strings.Repeat("v", spec.MaxMetaBytes))),
		"a join of no one":                 ctx.Join("b", "", "k"),
		"a child of no one":                ctx.Start("", nil),
		"a child of a long name":           ctx.Start(strings.Repeat("f", 64), nil),
		"a large input of a child":         ctx.Start("f", make([]byte, 11)),
		"a child into no bucket":           ctx.Start("f", nil, fn.Into("", "k")),
		"a child into a long key":          ctx.Start("f", nil, fn.Into("b", strings.Repeat("k", 1025))),
		"a child of no time":               ctx.Start("f", nil, fn.StartTimeout(0)),
		"a child of years":                 ctx.Start("f", nil, fn.StartTimeout(365*24*time.Hour+1)),
		"a child's input as output":        ctx.Start("f", nil, fn.AsOutput()),
		"a child's input with a delay":     ctx.Start("f", nil, fn.DeliverAfter(time.Second)),
		"a child with a long content type": ctx.Start("f", nil, fn.ContentType(strings.Repeat("c", spec.MaxContentTypeBytes+1))),
		"a long content type":              ctx.PutNew("b", nil, fn.ContentType(strings.Repeat("c", spec.MaxContentTypeBytes+1))),
	} {
		var refused *fn.RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: error %v", name, err)
		}
		if kind, _, _ := fn.Failure(err); kind != "refused" {
			t.Errorf("%s: kind %s", name, kind)
		}
	}
	_ = fn.Run(ctx, func(*fn.Context, []fn.Object) error { return nil }, nil)
	if err := ctx.Put("b", "k", nil); !errors.Is(err, fn.ErrEnded) {
		t.Errorf("a put after the end: %v", err)
	}
}
