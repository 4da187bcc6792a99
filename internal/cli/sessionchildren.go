package cli

import (
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// childAlike is what child sessions have in common of which only a few are shown.
type childAlike struct {
	function spec.FunctionName
	status   wire.SessionStatus
	awaited  bool
}

// childSessions lists the sessions that functions of this one have started.
func (s *sessionTree) childSessions() {
	children := s.history.Children
	if len(children) == 0 {
		return
	}
	s.t.linef("child sessions")
	many, seen := map[childAlike]int{}, map[childAlike]int{}
	for _, child := range children {
		many[kindOf(child)]++
	}
	var order []childAlike
	for _, child := range children {
		k := kindOf(child)
		switch {
		case s.full || many[k] <= treeAlikeMax || seen[k] < treeAlikeFew:
			s.child(child)
		case seen[k] == treeAlikeFew:
			order = append(order, k)
		}
		seen[k]++
	}
	for _, k := range order {
		s.t.linef("  %s", s.c.paint(s.c.StdoutTerminal, dim, harmless(fmt.Sprintf("… %d more %s %s", many[k]-treeAlikeFew, k.function, k.word()))))
	}
	if more := s.history.Session.Children - len(children); more > 0 {
		s.t.linef("  … and %s", count(more, "more child session"))
	}
}

func kindOf(c wire.Child) childAlike { return childAlike{c.Function, c.Status, c.Awaited} }

// word is the status of a child as far as its parent knows.
func (k childAlike) word() string {
	if k.awaited {
		return string(k.status)
	}
	return "independent"
}

func (s *sessionTree) child(c wire.Child) {
	start := s.history.Session.CreatedAt
	line := "started +" + short(max(0, c.StartedAt.Sub(start)))
	if !c.EndedAt.IsZero() {
		line += ", took " + short(max(0, c.EndedAt.Sub(c.StartedAt)))
	}
	line += ", by " + shortID(c.Invocation)
	if c.Awaited {
		line += fmt.Sprintf(", result into %s/%s", c.Bucket, c.Key)
	}
	s.t.linef("  %s %s  %s  %s", harmless(string(c.Session)), harmless(string(c.Function)), s.state(kindOf(c).word()), harmless(line))
}
