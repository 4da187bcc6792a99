package client

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestEventsAreReadAsTheStandardSays(t *testing.T) {
	text := ": comment\n\nid: 1\nevent: put\ndata: a\ndata: b\n\nevent: nothing\n\ndata\n\nid: 2\r\ndata:c\r\n\r\ndata: cut off"
	r := newEventReader(strings.NewReader(text))
	var got []string
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.id+"|"+e.kind+"|"+string(e.data))
	}
	if want := "1|put|a\nb;||;2||c"; strings.Join(got, ";") != want {
		t.Errorf("events %q, want %q", strings.Join(got, ";"), want)
	}
}

func TestAnEventThatIsTooLargeIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"one line":   "data: " + strings.Repeat("x", maxEventBytes+1),
		"many lines": strings.Repeat("data: "+strings.Repeat("x", 1<<10)+"\n", maxEventBytes>>10+1),
	} {
		if _, err := newEventReader(strings.NewReader(text)).next(); !errors.Is(err, errEventTooLarge) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func FuzzEventsNeverPanicAndAlwaysEnd(f *testing.F) {
	f.Add("id: 1\ndata: x\n\n")
	f.Add("data\n\n:\n\r\n\nevent")
	f.Fuzz(func(t *testing.T, text string) {
		r := newEventReader(strings.NewReader(text))
		for range len(text) + 2 {
			if _, err := r.next(); err != nil {
				return
			}
		}
		t.Fatal("more events than bytes")
	})
}
