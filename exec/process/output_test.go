package process

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// latePipe is a pipe whose reader comes only when its deadline is over.
func latePipe(t *testing.T) (*toTheEnd, *os.File) {
	t.Helper()
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = from.Close(), to.Close() })
	if err := from.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	return &toTheEnd{pipe: from}, to
}

func TestAReaderThatComesLateReadsWhatIsInThePipe(t *testing.T) {
	for _, open := range []bool{true, false} {
		r, w := latePipe(t)
		words := strings.Repeat("last words\n", 5000)
		if _, err := io.WriteString(w, words); err != nil {
			t.Fatal(err)
		}
		var want error
		if open { // by a child, that says nothing
			want = os.ErrDeadlineExceeded
		} else if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != words || !errors.Is(err, want) {
			t.Errorf("with the pipe open (%t) it read %d bytes of %d: %v", open, len(got), len(words), err)
		}
	}
}

func TestAReaderThatComesLateIsNotKeptByWhoWritesOn(t *testing.T) {
	r, w := latePipe(t)
	buf, total := make([]byte, 4096), 0
	for {
		if _, err := w.Write(buf); err != nil {
			t.Fatal(err)
		}
		n, err := r.Read(buf)
		if err != nil {
			return
		}
		if total += n; total > pipeBytes {
			t.Fatalf("it has read %d bytes, more than a pipe holds", total)
		}
	}
}
