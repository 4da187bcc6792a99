package cli

import (
	"fmt"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const (
	treeDepth     = 8  // levels that are indented; what hangs below them is printed flat
	treeAlikeMax  = 12 // siblings alike, above which only the first are shown
	treeAlikeFew  = 8
	treeDetailMax = 15 // lines of a failure's detail: the last ones, where a stack names its cause
)

// sessionTree prints invocations below the one whose object made them fire. What
// it prints grows with their number alone, however deep they hang.
type sessionTree struct {
	c        *cli
	t        *table
	history  wire.History
	full     bool                          // every sibling, and every line of a failure
	children map[string][]*wire.Invocation // by the id of what they hang below; "" for roots
	below    map[string]int                // by id: how many hang below, at any depth
	broken   map[string]bool               // by id: some of those failed
}

func (s *sessionTree) print() {
	session := s.history.Session
	s.t.linef("session %s  %s  %s version %d", harmless(string(session.Session)), s.state(string(session.Status)), harmless(string(session.App)), session.AppVersion)
	line := fmt.Sprintf("started %s by %s", session.CreatedAt.Local().Format("2006-01-02 15:04:05.000"), origin(session.Origin))
	if !session.EndedAt.IsZero() {
		line += ", took " + short(session.EndedAt.Sub(session.CreatedAt))
	}
	s.t.linef("%s", harmless(line))
	s.t.linef("%s, %s", count(session.Invocations, "invocation"), count(session.Objects, "object"))
	s.grow()
	s.failure(session.Error)
	s.branches(s.children[""], "", 1)
	if s.history.Next != "" {
		s.rest(session.Invocations - len(s.history.Invocations))
	}
	s.waiting(session.Waiting)
}

// failure tells why the session failed, with the detail if the invocation that
// failed is not among those below.
func (s *sessionTree) failure(e *wire.FunctionError) {
	if e == nil {
		return
	}
	s.t.linef("%s %s", s.c.paint(s.c.StdoutTerminal, red, "error:"), harmless(strings.TrimSpace(fmt.Sprintf("%s %s: %s", e.Function, e.Kind, e.Message))))
	if _, shown := s.below[e.Invocation]; !shown {
		s.detail("", e.Detail)
	}
}

func (s *sessionTree) rest(more int) {
	shown := len(s.history.Invocations)
	switch {
	case s.full:
		s.t.linef("… and more: this shows the first %d invocations", shown)
	case more > 0:
		s.t.linef("… and %s: this shows the first %d, --full all", count(more, "more invocation"), shown)
	default:
		s.t.linef("… and more: this shows the first %d invocations, --full all", shown)
	}
}

// grow finds each invocation's parent: the invocation, made before it, whose
// object was the last of its inputs to be stored and so made it fire.
func (s *sessionTree) grow() {
	s.children, s.below, s.broken = map[string][]*wire.Invocation{}, map[string]int{}, map[string]bool{}
	parents := make([]string, len(s.history.Invocations))
	for n := range s.history.Invocations {
		i := &s.history.Invocations[n]
		parent, newest := "", spec.Revision(0)
		for _, input := range i.Inputs {
			if input.Revision >= newest {
				parent, newest = input.Producer, input.Revision
			}
		}
		if _, seen := s.below[parent]; !seen { // it comes from outside, or would make a loop
			parent = ""
		}
		s.below[i.ID] = 0
		s.children[parent] = append(s.children[parent], i)
		parents[n] = parent
	}
	for n := len(parents) - 1; n >= 0; n-- { // children come after their parents
		i := s.history.Invocations[n]
		s.below[parents[n]] += s.below[i.ID] + 1
		if i.State == "failed" || s.broken[i.ID] {
			s.broken[parents[n]] = true
		}
	}
}

// branches prints siblings, and what hangs below them.
func (s *sessionTree) branches(siblings []*wire.Invocation, indent string, depth int) {
	if depth == treeDepth {
		siblings = s.flat(siblings)
	}
	shown, elided := siblings, []string(nil)
	if !s.full {
		shown, elided = s.elide(siblings, depth)
	}
	for n, i := range shown {
		s.branch(i, indent, depth, n == len(shown)-1 && len(elided) == 0)
	}
	for n, line := range elided {
		s.t.linef("%s%s%s", indent, joint(n == len(elided)-1), s.c.paint(s.c.StdoutTerminal, dim, line))
	}
}

// flat is siblings with all that hangs below them, each after its parent.
func (s *sessionTree) flat(siblings []*wire.Invocation) []*wire.Invocation {
	var all []*wire.Invocation
	for left := reversed(siblings); len(left) > 0; {
		next := left[len(left)-1]
		left = append(left[:len(left)-1], reversed(s.children[next.ID])...)
		all = append(all, next)
	}
	return all
}

func reversed(siblings []*wire.Invocation) []*wire.Invocation {
	out := make([]*wire.Invocation, 0, len(siblings))
	for n := len(siblings) - 1; n >= 0; n-- {
		out = append(out, siblings[n])
	}
	return out
}

// alike is what siblings have in common of which only a few are shown.
type alike struct {
	function spec.FunctionName
	state    string
	broken   bool
}

// elide leaves the first few of many siblings alike, and a line for the others.
func (s *sessionTree) elide(siblings []*wire.Invocation, depth int) (shown []*wire.Invocation, lines []string) {
	kind := func(i *wire.Invocation) alike {
		return alike{i.Function, i.State, depth < treeDepth && s.broken[i.ID]}
	}
	many, seen, below := map[alike]int{}, map[alike]int{}, map[alike]int{}
	for _, i := range siblings {
		many[kind(i)]++
	}
	var order []alike
	for _, i := range siblings {
		k := kind(i)
		switch {
		case many[k] <= treeAlikeMax || seen[k] < treeAlikeFew:
			shown = append(shown, i)
		case seen[k] == treeAlikeFew:
			order = append(order, k)
		}
		if seen[k]++; seen[k] > treeAlikeFew && depth < treeDepth {
			below[k] += s.below[i.ID]
		}
	}
	for _, k := range order {
		line := fmt.Sprintf("… %d more %s %s", many[k]-treeAlikeFew, k.function, k.state)
		if below[k] > 0 {
			line += fmt.Sprintf(", with %d below them", below[k])
		}
		lines = append(lines, harmless(line))
	}
	return shown, lines
}

func joint(last bool) string {
	if last {
		return "└─ "
	}
	return "├─ "
}

func (s *sessionTree) branch(i *wire.Invocation, indent string, depth int, last bool) {
	below := s.children[i.ID]
	if depth == treeDepth {
		below = nil // they are its siblings here, and tell what they come from
	}
	inner, stem := indent+"│  ", "   "
	if last {
		inner = indent + "   "
	}
	if len(below) > 0 {
		stem = "│  "
	}
	start := s.history.Session.CreatedAt
	s.t.linef("%s%s%s %s  %s  %s", indent, joint(last), shortID(i.ID), harmless(string(i.Function)), s.state(i.State), harmless(times(*i, start)))
	s.t.linef("%s%s%s", inner, stem, s.c.paint(s.c.StdoutTerminal, dim, harmless(why(*i))))
	for n, a := range i.Attempts {
		if a.Error == nil {
			continue
		}
		s.t.linef("%s%s%s", inner, stem, s.c.paint(s.c.StdoutTerminal, red, harmless(fmt.Sprintf("attempt %d %s: %s", a.Number, a.Error.Kind, a.Error.Message))))
		if s.full || n == len(i.Attempts)-1 {
			s.detail(inner+stem, a.Error.Detail)
		}
	}
	s.branches(below, inner, depth+1)
}

// detail prints the end of a failure's stack or last output.
func (s *sessionTree) detail(indent, detail string) {
	if detail = strings.TrimRight(detail, " \r\n"); detail == "" {
		return
	}
	lines := strings.Split(strings.ReplaceAll(detail, "\r\n", "\n"), "\n")
	if more := len(lines) - treeDetailMax; more > 0 && !s.full {
		s.t.linef("%s  %s", indent, s.c.paint(s.c.StdoutTerminal, dim, fmt.Sprintf("… %s before, --full shows them", count(more, "line"))))
		lines = lines[more:]
	}
	for _, line := range lines {
		s.t.linef("%s  %s", indent, harmlessText(line))
	}
}

func (s *sessionTree) state(state string) string {
	return s.c.paint(s.c.StdoutTerminal, colourOf(state), harmless(state))
}
