package triggers_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// TestTranscripts runs the files of testdata/transcripts. The clock starts at 00:00:00 of a
// day and moves with the first argument of tick, or of any command's at=+1s.
//
//	trigger PRIMITIVE [scope=bucket] [option=value]...
//	put KEY [group=G] [at=+1s]    again POSITION    join KEY...
//	done                          tick [+1s]        restore
//
// Each prints what the step did and, with what they wait for, what is kept.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		s := &script{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

type script struct {
	owner    *owner
	now      time.Time
	position uint64
	objects  []triggers.Object // by position, from 1
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	ev := triggers.Event{Kind: triggers.Tick}
	for _, arg := range d.CmdArgs {
		delta := strings.TrimPrefix(arg.Key, "at=")
		if arg.Key == "at" {
			delta = arg.Vals[0]
		} else if d.Cmd != "tick" {
			continue
		}
		passed, err := time.ParseDuration(delta)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.now = s.now.Add(passed)
	}
	switch d.Cmd {
	case "trigger":
		s.owner = newOwner(t, triggerOf(t, d))
		return s.waiting()
	case "restore":
		s.owner.restore()
		return s.waiting()
	case "put":
		s.position++
		ev.Kind, ev.Object = triggers.ObjectArrived, triggers.Object{Position: s.position, Key: spec.Key(d.CmdArgs[0].Key)}
		if arg, ok := d.Arg("group"); ok {
			ev.Object.Group = arg.Vals[0]
		}
		s.objects = append(s.objects, ev.Object)
	case "again":
		p, err := strconv.Atoi(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		ev.Kind, ev.Object = triggers.ObjectArrived, s.objects[p-1]
	case "join":
		ev.Kind = triggers.SetNamed
		for _, arg := range d.CmdArgs {
			ev.Keys = append(ev.Keys, spec.Key(arg.Key))
		}
	case "done":
		ev.Kind = triggers.StageDone
	case "tick":
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	ev.Now = s.now
	s.owner.t = t
	return s.outcome(s.owner.step(ev)) + s.waiting()
}

func (s *script) outcome(out triggers.Outcome) string {
	var b strings.Builder
	for _, f := range out.Firings {
		b.WriteString("fire")
		if f.Group != "" {
			fmt.Fprintf(&b, " group=%s", f.Group)
		}
		if !f.Window.IsZero() {
			fmt.Fprintf(&b, " window=%s", clock(f.Window))
		}
		for _, in := range f.Inputs {
			fmt.Fprintf(&b, " %d=%s", in.Position, in.Key)
		}
		b.WriteString("\n")
	}
	if len(out.Rejected) > 0 {
		fmt.Fprintf(&b, "reject %v\n", out.Rejected)
	}
	if out.CancelRest {
		b.WriteString("cancel the rest\n")
	}
	return b.String()
}

func (s *script) waiting() string {
	w := s.owner.machine.Waiting()
	if !w.Armed {
		if s.owner.timer.IsZero() {
			return "idle\n"
		}
		return "idle until " + clock(s.owner.timer) + "\n"
	}
	text := fmt.Sprintf("kept %v, have %d, need %d", s.owner.kept(), w.Have, w.Need)
	if len(w.Missing) > 0 {
		text += fmt.Sprintf(" %v", w.Missing)
	}
	if !s.owner.timer.IsZero() {
		text += ", timer " + clock(s.owner.timer)
	}
	return text + "\n"
}

func clock(t time.Time) string { return t.Format("15:04:05.999") }

func triggerOf(t *testing.T, d *datadriven.TestData) *spec.Trigger {
	trigger := &spec.Trigger{Name: "t", Primitive: spec.Primitive(d.CmdArgs[0].Key), Scope: spec.ScopeSession}
	for _, arg := range d.CmdArgs[1:] {
		var err error
		v := ""
		if len(arg.Vals) > 0 {
			v = arg.Vals[0]
		}
		switch arg.Key {
		case "scope":
			trigger.Scope = spec.Scope(v)
		case "keys":
			trigger.Keys = keysOf(arg)
		case "match":
			trigger.Match = v
		case "count":
			trigger.Count, err = strconv.Atoi(v)
		case "k":
			trigger.K, err = strconv.Atoi(v)
		case "n":
			trigger.N, err = strconv.Atoi(v)
		case "max_wait":
			trigger.MaxWait, err = time.ParseDuration(v)
		case "every":
			trigger.Every, err = time.ParseDuration(v)
		case "slide":
			trigger.Slide, err = time.ParseDuration(v)
		case "allow_empty":
			trigger.AllowEmpty = true
		case "cancel_rest":
			trigger.CancelRest = true
		case "prefix":
			trigger.GroupBy.Prefix = v
		case "meta":
			trigger.GroupBy.Meta = v
		case "until_keys":
			trigger.Until.Keys = keysOf(arg)
		case "until_functions":
			trigger.Until.Functions = []spec.FunctionName{spec.FunctionName(v)}
		default:
			d.Fatalf(t, "unknown option %s", arg.Key)
		}
		if err != nil {
			d.Fatalf(t, "%s: %v", arg.Key, err)
		}
	}
	return trigger
}

func keysOf(arg datadriven.CmdArg) (keys []spec.Key) {
	for _, v := range arg.Vals {
		keys = append(keys, spec.Key(v))
	}
	return keys
}
