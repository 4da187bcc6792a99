package shard

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"
)

// raftLog is where dragonboat's loggers write. They are made once for the
// process, so that they look here for each line.
var (
	raftLog        atomic.Pointer[slog.Logger]
	setRaftLogOnce sync.Once
)

func routeRaftLog(log *slog.Logger) {
	raftLog.Store(log)
	setRaftLogOnce.Do(func() {
		logger.SetLoggerFactory(func(part string) logger.ILogger { return lineLogger{part} })
	})
}

// lineLogger writes the lines of one part of dragonboat to raftLog.
type lineLogger struct{ part string }

var _ logger.ILogger = lineLogger{}

func (l lineLogger) write(level slog.Level, format string, args []any) {
	log := raftLog.Load()
	if log.Enabled(context.Background(), level) {
		log.Log(context.Background(), level, fmt.Sprintf(format, args...), "part", "raft/"+l.part)
	}
}

func (lineLogger) SetLevel(logger.LogLevel) {}

// Dragonboat warns of every step of an election, so only its errors keep their level.
func (l lineLogger) Debugf(format string, args ...any)   { l.write(slog.LevelDebug, format, args) }
func (l lineLogger) Infof(format string, args ...any)    { l.write(slog.LevelDebug, format, args) }
func (l lineLogger) Warningf(format string, args ...any) { l.write(slog.LevelDebug, format, args) }

// Errorf keeps the level, but of the transport: it has one for each attempt to reach
// a host that is away, and tells of that in its own way.
func (l lineLogger) Errorf(format string, args ...any) {
	level := slog.LevelError
	if l.part == "transport" {
		level = slog.LevelDebug
	}
	l.write(level, format, args)
}

// Panicf must not return: dragonboat goes on with broken state otherwise. It
// panics with an error: dragonboat swallows other panics while it opens.
func (l lineLogger) Panicf(format string, args ...any) {
	l.write(slog.LevelError, format, args)
	panic(fmt.Errorf(format, args...))
}
