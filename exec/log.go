package exec

import (
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// LogRecord is one line that a function printed or logged.
type LogRecord struct {
	Time     time.Time         `json:"time"`
	App      spec.AppName      `json:"app"`
	Function spec.FunctionName `json:"function,omitempty"` // empty if it is not known which function printed
	// Invocation is the text form of the invocation; empty if it is not known.
	Invocation string `json:"invocation,omitempty"`
	Attempt    int    `json:"attempt,omitempty"`
	Stream     string `json:"stream"` // stdout, stderr, log, or node for what the node has to say
	Text       string `json:"text"`
}

// Streams of a LogRecord.
const (
	StreamStdout = "stdout"
	StreamStderr = "stderr"
	StreamLog    = "log"
	StreamNode   = "node"
)
