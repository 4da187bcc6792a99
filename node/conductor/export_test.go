package conductor

import "time"

// NewMemory is what a conductor that begins knows.
func NewMemory(now time.Time) *memory { return newMemory(now) }

// Look is what is known of a node after it was asked once more.
func (m *memory) Look(name string, answer *Status, now time.Time, deadAfter time.Duration) Node {
	m.nodes[name] = m.node(name, answer, now, deadAfter)
	return m.nodes[name]
}
