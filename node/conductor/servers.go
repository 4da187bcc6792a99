package conductor

import (
	"cmp"
	"slices"
)

// manyMembers is the size of a cluster from which on its control group has five
// voters, so that it bears the loss of two; below that there are three.
const manyMembers = 5

// votersOf is how many voters a cluster of that size has. Two nodes both vote:
// what is agreed on is on both.
func votersOf(members int) int {
	if members < manyMembers {
		return min(3, members)
	}
	return 5
}

// servers returns the next step that the control group's servers need, once the
// cluster is made: until then its first members come one by one.
func (p *planner) servers() (Action, bool) {
	if len(p.ids) == 0 || p.v.Now.Before(p.v.Resting[0]) {
		return Action{}, false
	}
	if a, ok := p.missingServer(); ok {
		return a, true
	}
	want := p.voters()
	for _, s := range p.v.Servers {
		if !s.Voter && want[s.Name] && p.answers(s) {
			return Action{Kind: PromoteVoter, Node: s.Name}, true
		}
	}
	self := false
	for _, s := range p.v.Servers {
		_, member := p.v.State.Members[s.Name]
		stray := !member && p.v.Now.Sub(s.Stray) >= strayPatience
		switch {
		case !member && !stray, member && (!s.Voter || want[s.Name] || !p.staffed(want)):
		case s.Name == p.v.Self:
			self = true
		case s.Voter && !p.bearsLoss(s):
		case stray:
			return Action{Kind: RemoveServer, Node: s.Name}, true
		default:
			return Action{Kind: DemoteVoter, Node: s.Name}, true
		}
	}
	// The node that leads goes last: then one that stays takes over.
	return Action{Kind: HandOver}, self && p.successor()
}

// missingServer finds a member that is no server, or is elsewhere by now.
func (p *planner) missingServer() (Action, bool) {
	if len(p.v.Servers) == 0 {
		return Action{}, false
	}
	for _, name := range sorted(p.v.State.Members) {
		i := slices.IndexFunc(p.v.Servers, func(s Server) bool { return s.Name == name })
		if p.v.live(name) && (i < 0 || p.v.Servers[i].Address != p.v.State.Members[name].Address) {
			return Action{Kind: AddServer, Node: name}, true
		}
	}
	return Action{}, false
}

// heard tells whether a server takes part.
func (p *planner) heard(s Server) bool {
	return s.Name == p.v.Self || p.v.Now.Sub(s.Seen) < p.v.Settings.DeadAfter
}

// answers tells whether a server takes part at this moment: the group can count on
// it when its voters change.
func (p *planner) answers(s Server) bool {
	return s.Name == p.v.Self || p.heard(s) && p.v.Nodes[s.Name].Replicas != nil
}

// voters chooses who is to vote: rather nodes that stay and live, and rather those
// that do already. A dead one keeps its vote for the grace that its replicas have.
func (p *planner) voters() map[string]bool {
	var candidates []Server
	for _, s := range p.v.Servers {
		if _, member := p.v.State.Members[s.Name]; member && (s.Voter || p.heard(s)) {
			candidates = append(candidates, s)
		}
	}
	rank := func(s Server) int {
		switch {
		case !p.heard(s) && p.v.Now.Sub(s.Seen) >= p.v.Settings.RebuildAfter:
			return 2
		case p.v.State.Members[s.Name].Draining:
			return 1
		}
		return 0
	}
	slices.SortFunc(candidates, func(a, b Server) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), first(a.Voter, b.Voter), first(p.heard(a), p.heard(b)), cmp.Compare(a.Name, b.Name))
	})
	chosen := map[string]bool{}
	for _, s := range candidates[:min(len(candidates), votersOf(len(p.v.State.Members)))] {
		chosen[s.Name] = true
	}
	return chosen
}

// staffed tells whether all that are to vote do.
func (p *planner) staffed(want map[string]bool) bool {
	for _, s := range p.v.Servers {
		if want[s.Name] && !s.Voter {
			return false
		}
	}
	return true
}

// bearsLoss tells whether the control group has a quorum of live voters without one.
func (p *planner) bearsLoss(gone Server) bool {
	voters, live := 0, 0
	for _, s := range p.v.Servers {
		if !s.Voter || s.Name == gone.Name {
			continue
		}
		voters++
		if p.answers(s) {
			live++
		}
	}
	return live > voters/2
}

// successor tells whether another voter could lead.
func (p *planner) successor() bool {
	return slices.ContainsFunc(p.v.Servers, func(s Server) bool { return s.Voter && s.Name != p.v.Self && p.answers(s) })
}
