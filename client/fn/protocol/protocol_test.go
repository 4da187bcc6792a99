package protocol_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

func TestFramesComeBackAsTheyWent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type frame struct {
			header  protocol.Header
			fields  []byte
			payload []byte
		}
		var batch protocol.Batch
		var sent []frame
		for range rapid.IntRange(1, 8).Draw(t, "frames") {
			f := frame{header: protocol.Header{
				Type: protocol.Type(rapid.IntRange(int(protocol.Put), int(protocol.GetReply)).Draw(t, "type")),
				ID:   rapid.Uint64().Draw(t, "id"), Arg: rapid.Uint32().Draw(t, "arg"), Flags: rapid.Uint8().Draw(t, "flags"),
			}}
			f.fields = protocol.AppendField(nil, protocol.TagKey, rapid.String().Draw(t, "key"))
			f.fields = protocol.AppendMeta(f.fields, rapid.String().Draw(t, "name"), rapid.String().Draw(t, "value"))
			size := rapid.SampledFrom([]int{0, 1, 1000, 16 << 10, 64 << 10, 3 << 20}).Draw(t, "size")
			f.payload = bytes.Repeat([]byte{byte(len(sent))}, size)
			batch.Add(f.header, f.fields, f.payload)
			sent = append(sent, f)
		}
		stream := bytes.Join(batch.Parts(), nil)
		if len(stream) != batch.Bytes() {
			t.Fatalf("the batch has %d bytes and says %d", len(stream), batch.Bytes())
		}
		var source io.Reader = bytes.NewReader(stream)
		if len(stream) < 100_000 && rapid.Bool().Draw(t, "slow") {
			source = iotest.OneByteReader(source)
		}
		r := protocol.NewReader(source, 4<<20)
		for i, want := range sent {
			got, err := r.Next()
			if err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			if got.Type != want.header.Type || got.ID != want.header.ID || got.Arg != want.header.Arg || got.Flags != want.header.Flags ||
				!bytes.Equal(got.Fields, want.fields) || !bytes.Equal(got.Payload, want.payload) {
				t.Fatalf("frame %d came as %+v", i, got.Header)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("after the last frame: %v", err)
		}
	})
}

func TestAHeaderIsCheckedBeforeItsBodyIsRead(t *testing.T) {
	for _, c := range []struct {
		name   string
		header protocol.Header
		spoil  func([]byte)
	}{
		{"type 0", protocol.Header{}, nil},
		{"an unknown type", protocol.Header{Type: 99}, nil},
		{"a body over the bound", protocol.Header{Type: protocol.Put, BodyBytes: 1 << 31}, nil},
		{"more fields than body", protocol.Header{Type: protocol.Put, BodyBytes: 10, FieldBytes: 11}, nil},
		{"too many fields", protocol.Header{Type: protocol.Put, BodyBytes: 1 << 30, FieldBytes: 1 << 30}, nil},
		{"a long log line", protocol.Header{Type: protocol.Log, BodyBytes: protocol.MaxLogBytes + 1}, nil},
		{"a long error", protocol.Header{Type: protocol.Error, BodyBytes: protocol.MaxTextBytes + 1}, nil},
		{"reserved bytes", protocol.Header{Type: protocol.Put}, func(b []byte) { b[7] = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.header.Append(nil)
			if c.spoil != nil {
				c.spoil(b)
			}
			_, err := protocol.NewReader(bytes.NewReader(b), 1<<29).Next()
			var violation protocol.Violation
			if !errors.As(err, &violation) {
				t.Fatalf("error %v, want a violation", err)
			}
		})
	}
}

func TestABodyThatNeverComesCostsLittle(t *testing.T) {
	b := protocol.Header{Type: protocol.Put, BodyBytes: 1 << 30}.Append(nil)
	allocated := testing.Benchmark(func(tb *testing.B) {
		tb.ReportAllocs()
		for range tb.N {
			if _, err := protocol.NewReader(bytes.NewReader(b), 1<<31-1).Next(); err != io.ErrUnexpectedEOF {
				tb.Fatalf("error %v", err)
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 2<<20 {
		t.Fatalf("a header alone took %d bytes", allocated)
	}
}

func FuzzReader(f *testing.F) {
	var b protocol.Batch
	fields := protocol.AppendObject(nil, protocol.Descriptor{Length: 3})
	b.Add(protocol.Header{Type: protocol.Put, ID: 1}, protocol.AppendField(fields, protocol.TagBucket, "out"), []byte("abc"))
	f.Add(b.Parts()[0])
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(protocol.Header{Type: protocol.Get, BodyBytes: 4, FieldBytes: 4}.Append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := protocol.NewReader(bytes.NewReader(in), 1<<20)
		for {
			frame, err := r.Next()
			if err != nil {
				return
			}
			for rest := frame.Fields; len(rest) > 0; {
				tag, value, next, err := protocol.NextField(rest)
				if err != nil {
					break
				}
				switch tag {
				case protocol.TagObject:
					if data, err := protocol.Object(value, frame.Payload); err == nil && len(data) > len(frame.Payload) {
						t.Fatal("an object larger than its payload")
					}
				case protocol.TagMeta:
					if name, content, err := protocol.Meta(value); err == nil && len(name)+len(content) != len(value)-2 {
						t.Fatal("metadata that is not all of its field")
					}
				}
				rest = next
			}
		}
	})
}
