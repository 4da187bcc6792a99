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

	// raftFatal is Fatal of the host that was opened last, and raftGuarded counts the
	// calls under way that turn dragonboat's panics into errors.
	raftFatal   atomic.Pointer[func(error)]
	raftGuarded atomic.Int32
)

// guarded turns a panic of dragonboat in do into an error.
func guarded(do func() error) (err error) {
	raftGuarded.Add(1)
	defer raftGuarded.Add(-1)
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("damaged: %v", fault)
		}
	}()
	return do()
}

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

// Panicf must not return: dragonboat goes on with broken state otherwise. The process
// ends with the reason as its last line, not with stacks. Where that is not wanted it
// panics with an error: dragonboat swallows other panics while it opens.
func (l lineLogger) Panicf(format string, args ...any) {
	l.write(slog.LevelError, format, args)
	err := fmt.Errorf(format, args...)
	if fatal := raftFatal.Load(); fatal != nil && raftGuarded.Load() == 0 {
		(*fatal)(fmt.Errorf("the raft logs can't be gone on with: %w", err))
	}
	panic(err)
}
