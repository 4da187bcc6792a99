package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitNotAllowed  = 5
	exitUnavailable = 6
	exitInterrupted = 130 // as shells have it: 128 and SIGINT
)

func exitCode(ctx context.Context, err error) int {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	switch spec.CodeOf(err) {
	case spec.CodeInvalid:
		return exitUsage
	case spec.CodeNotFound, spec.CodeGone:
		return exitNotFound
	case spec.CodeConflict, spec.CodePrecondition:
		return exitConflict
	case spec.CodeUnauthorized, spec.CodeForbidden, spec.CodeNotAllowed:
		return exitNotAllowed
	case spec.CodeTimeout, spec.CodeUnavailable, spec.CodeOverloaded:
		return exitUnavailable
	}
	return exitFailed
}

// usage is an error of what was typed.
func usage(format string, args ...any) *spec.Error {
	return spec.Errorf(spec.CodeInvalid, format, args...)
}

func (c *cli) printError(ctx context.Context, err error) {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = fmt.Errorf("interrupted")
	}
	said := wireError(err)
	if c.format == formatJSON || c.format == formatJSONL {
		line, _ := json.Marshal(wire.ErrorBody{Error: said})
		fmt.Fprintf(c.Stderr, "%s\n", harmlessJSON(line))
		return
	}
	fmt.Fprintf(c.Stderr, "%s %s\n", c.paint(c.StderrTerminal, red, "error:"), harmlessText(said.Message))
	for _, f := range said.Faults {
		fmt.Fprintln(c.Stderr, "  "+faultLine("", f))
	}
	if said.Hint != "" {
		fmt.Fprintf(c.Stderr, "hint: %s\n", harmlessText(said.Hint))
	}
}

func wireError(err error) wire.Error {
	out := wire.Error{Code: spec.CodeOf(err), Message: err.Error()}
	if e, ok := errors.AsType[*spec.Error](err); ok {
		out.Field, out.Hint, out.Faults = e.Field, e.Hint, e.Faults
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		out.Session = e.Session
	}
	return out
}

// faultLine is a fault as compilers print them.
func faultLine(file string, f spec.Fault) string {
	kind := ""
	if f.Warning {
		kind = "warning: "
	}
	at := ""
	if f.Line > 0 {
		at = fmt.Sprintf("%d:%d: ", f.Line, f.Column)
	}
	if file != "" {
		at = file + ":" + at
		if f.Line == 0 {
			at += " "
		}
	}
	if f.Path != "" {
		return harmless(fmt.Sprintf("%s%s%s: %s", at, kind, f.Path, f.Message))
	}
	return harmless(fmt.Sprintf("%s%s%s", at, kind, f.Message))
}
