package control

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hashicorpLog passes raft's log on: warnings and errors as such, the rest at
// debug, because raft tells every step of a start at info. A group of one node
// has nobody to miss: its warnings, of the election at each start, are no news.
func hashicorpLog(log *slog.Logger, sole bool) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(sink{log, sole})
	return l
}

type sink struct {
	log   *slog.Logger
	quiet bool
}

func (s sink) Accept(name string, level hclog.Level, message string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn:
		if !s.quiet {
			to = slog.LevelWarn
		}
	case hclog.Error:
		to = slog.LevelError
	}
	if s.log.Enabled(context.Background(), to) {
		s.log.Log(context.Background(), to, message, append([]any{"part", "raft/control"}, args...)...)
	}
}
