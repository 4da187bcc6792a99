package control

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// hashicorpLog passes raft's log on: warnings and errors as such, the rest at
// debug, because raft tells every step of a start at info. A group of one node
// has nobody to miss: its warnings, of the election at each start, are no news.
func hashicorpLog(log *slog.Logger, sole bool) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(&sink{log: log, quiet: sole, said: make(map[string]time.Time)})
	return l
}

// sink says the same about the same node once in a while: raft tells of a node
// that is gone several times a second.
type sink struct {
	log   *slog.Logger
	quiet bool

	mu   sync.Mutex
	said map[string]time.Time // guarded by mu
}

const (
	sayAgain = 30 * time.Second
	saidMost = 1024
)

func (s *sink) Accept(name string, level hclog.Level, message string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn:
		if !s.quiet {
			to = slog.LevelWarn
		}
	case hclog.Error:
		to = slog.LevelError
	}
	if to > slog.LevelDebug && !s.due(message, args) {
		to = slog.LevelDebug
	}
	if s.log.Enabled(context.Background(), to) {
		s.log.Log(context.Background(), to, message, append([]any{"part", "raft/control"}, args...)...)
	}
}

// due says whether a message is news. What it is about comes first in args.
func (s *sink) due(message string, args []any) bool {
	if len(args) > 1 {
		message += fmt.Sprint(args[1])
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.said[message]; ok && now.Sub(last) < sayAgain {
		return false
	}
	if len(s.said) >= saidMost {
		clear(s.said)
	}
	s.said[message] = now
	return true
}
