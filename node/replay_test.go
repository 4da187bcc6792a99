package node

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// lent is a body that its owner takes back: reading it after that would read what
// is another request's by then.
type lent struct {
	begun, goOn chan struct{}
	back        chan struct{} // closed once it was taken back
	late, slow  bool
	left        int
}

func (l *lent) Read(p []byte) (int, error) {
	select {
	case <-l.back:
		l.late = true
	default:
	}
	n := min(len(p), l.left)
	if l.left -= n; n > 0 || l.slow {
		return max(n, 1), nil
	}
	l.slow = true
	close(l.begun)
	<-l.goOn
	return 1, nil
}

func TestABodyIsNotReadAfterItsRequest(t *testing.T) {
	body := &lent{begun: make(chan struct{}), goOn: make(chan struct{}), back: make(chan struct{}), left: replayBytes + 1}
	r := newReplay(body)
	content, _ := r.reader()
	read := make(chan error)
	go func() { // a connection, whose other end has answered early
		_, err := io.Copy(io.Discard, content)
		read <- err
	}()
	<-body.begun
	ended := make(chan struct{})
	go func() {
		r.end()
		close(body.back)
		close(ended)
	}()
	select {
	case <-ended:
		t.Error("the body was given back while it was read")
	default:
	}
	close(body.goOn)
	<-ended
	if err := <-read; !errors.Is(err, errReplayed) {
		t.Errorf("reading on: %v", err)
	}
	if body.late {
		t.Error("it was read after it was given back")
	}
	small := newReplay(bytes.NewReader([]byte("abc")))
	content, _ = small.reader()
	small.end()
	if got, err := io.ReadAll(content); string(got) != "abc" || err != nil {
		t.Errorf("a small one, which is in memory: %q, %v", got, err)
	}
	newReplay(nil).end()
}
