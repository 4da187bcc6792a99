package api_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
)

// endless counts what is read of it, and never ends.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.read += int64(len(p))
	return len(p), nil
}

func TestABodyBeyondTheLimitIsRefusedBeforeItIsRead(t *testing.T) {
	const limit = 1 << 20
	for _, c := range []struct {
		name   string
		size   int64 // -1: chunked
		expect bool
	}{
		{"with its length declared", 1 << 40, false},
		{"in chunks", -1, false},
		{"by a client that asks first", 1 << 40, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend := newFake()
			s := serve(t, backend, api.Config{MaxObjectBytes: limit})
			source := &endless{}
			req, _ := http.NewRequest("PUT", "http://"+s.addr+objects+"/k", io.LimitReader(source, 1<<40))
			req.ContentLength = c.size
			if c.expect {
				req.Header.Set("Expect", "100-continue")
			}
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			a := readAnswer(t, resp)
			if a.status != http.StatusRequestEntityTooLarge || a.error(t).Code != spec.CodeTooLarge {
				t.Errorf("answer %+v", a)
			}
			if !resp.Close {
				t.Error("the connection stays open")
			}
			if c.expect && source.read != 0 {
				t.Errorf("%d bytes were sent by a client that asked first", source.read)
			}
			if len(backend.puts) > 0 {
				t.Error("the object was put")
			}
		})
	}
}

func TestAClientThatAsksFirstIsToldToGoOn(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	a := s.do("PUT", objects+"/k", "hello", "Expect: 100-continue")
	if a.status != http.StatusOK || string(backend.data["\x00orders\x00k"]) != "hello" {
		t.Errorf("answer %+v", a)
	}
}

func TestABodyAtItsLimitIsTaken(t *testing.T) {
	const limit = 100 << 10
	backend := newFake()
	s := serve(t, backend, api.Config{MaxObjectBytes: limit})
	for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", limit)), io.LimitReader(&endless{}, limit)} {
		req, _ := http.NewRequest("PUT", "http://"+s.addr+objects+"/k", body)
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if a := readAnswer(t, resp); a.status != http.StatusOK || len(backend.data["\x00orders\x00k"]) != limit {
			t.Errorf("answer %+v with %d bytes put", a, len(backend.data["\x00orders\x00k"]))
		}
	}
}

func TestMalformedRequestsAreAnsweredInJSONAndTheConnectionCloses(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	put := "PUT " + objects + "/k HTTP/1.1\r\nHost: localhost\r\n"
	for _, c := range []struct {
		name, request string
		status        int
		code          spec.Code
	}{
		{"both lengths", put + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, spec.CodeInvalid},
		{"both lengths, the other way round", put + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, spec.CodeInvalid},
		{"both lengths, one of them identity", put + "Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx", 400, spec.CodeInvalid},
		{"two lengths", put + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, spec.CodeInvalid},
		{"a length that is none", put + "Content-Length: +1\r\n\r\nx", 400, spec.CodeInvalid},
		{"an unknown transfer coding", put + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, spec.CodeInvalid},
		{"a broken chunk", put + "Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n", 400, spec.CodeInvalid},
		{"a negative chunk", put + "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n", 400, spec.CodeInvalid},
		{"no host", "GET /livez HTTP/1.1\r\n\r\n", 400, spec.CodeInvalid},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, spec.CodeInvalid},
		{"a key of 10 MB", "PUT " + objects + "/" + strings.Repeat("k", 10<<20) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, spec.CodeTooLarge},
		{"a header of 1 MB", "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", 431, spec.CodeTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := s.raw(c.request, 0)
			if len(answers) != 1 {
				t.Fatalf("%d answers, want one and the end of the connection: %+v", len(answers), answers)
			}
			if a := answers[0]; a.status != c.status || a.error(t).Code != c.code || a.error(t).Message == "" {
				t.Errorf("got %d %s, want %d %s", a.status, a.body, c.status, c.code)
			}
		})
	}
}

func TestABodyThatBreaksOffIsNoObject(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 50_000), "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		backend := newFake()
		s := serve(t, backend, api.Config{})
		c := s.dial()
		fmt.Fprintf(c, "PUT %s/k HTTP/1.1\r\nHost: localhost\r\n%s", objects, framing)
		_ = c.CloseWrite()
		answer, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "broke off") {
			t.Errorf("answer %q", answer)
		}
		if len(backend.puts) > 0 {
			t.Error("half an object was put")
		}
	}
}

func TestSlowClientsAreGivenUp(t *testing.T) {
	s := serve(t, newFake(), api.Config{HeaderTimeout: 50 * time.Millisecond, UploadTimeout: 50 * time.Millisecond})
	for _, sent := range []string{
		"GET /livez HTT",
		"PUT " + objects + "/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe",
		"PUT " + objects + "/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 50_000),
		"PUT " + objects + "/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		answers := s.raw(sent, 1)
		if answers[0].status != http.StatusRequestTimeout || answers[0].error(t).Code != spec.CodeTimeout {
			t.Errorf("%q: answer %+v", clip(sent), answers[0])
		}
	}
}

func TestAnUploadHasMoreTimeThanItsHeaders(t *testing.T) {
	for _, framing := range []string{
		"Content-Length: 20000\r\n\r\n" + strings.Repeat("x", 15_000) + "|" + strings.Repeat("x", 5_000),
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n|0\r\n\r\n",
	} {
		// The headers have to be read in their time, which a busy machine may not.
		for timeout := 50 * time.Millisecond; ; timeout *= 2 {
			answer, err := uploadSlowly(serve(t, newFake(), api.Config{HeaderTimeout: timeout}), framing)
			if err == nil && answer == "HTTP/1.1 200" {
				break
			}
			if timeout > 3*time.Second {
				t.Fatalf("with %s for headers: answer %q %v", timeout, answer, err)
			}
		}
	}
}

// uploadSlowly sends the rest of an object once the time for headers is over, and
// returns how the answer begins.
func uploadSlowly(s *served, framing string) (string, error) {
	c := s.dial()
	before, after, _ := strings.Cut(framing, "|")
	fmt.Fprintf(c, "PUT %s/k HTTP/1.1\r\nHost: localhost\r\n%s", objects, before)
	s.raw("GET /livez", 1) // is given up
	_, _ = io.WriteString(c, after)
	answer := make([]byte, 12)
	_, err := io.ReadFull(c, answer)
	return string(answer), err
}

func TestAConnectionServesOnAfterAnError(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	answers := s.raw("GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"+
		"PUT "+objects+"/k?x=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"+
		"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 3)
	for i, status := range []int{404, 400, 200} {
		if answers[i].status != status {
			t.Errorf("answer %d: %+v, want %d", i+1, answers[i], status)
		}
	}
}
