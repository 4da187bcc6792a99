package form

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// found founds the cluster if this node is the one that decides and all that are
// needed are there. Else it returns what is missing.
func (f *Former) found(ctx context.Context, s seen) (waiting string, err error) {
	switch {
	case f.cfg.Expect == 0:
		return fmt.Sprintf("none of the nodes at %s belongs to a cluster: `pheromone cluster init` founds one of all that are there%s",
			strings.Join(s.seeds, ", "), missing(s.absent)), nil
	case !s.first:
		return fmt.Sprintf("the node at %s, the first of the addresses to join, founds the cluster once %d nodes are there%s",
			s.seeds[0], f.cfg.Expect, missing(s.absent)), nil
	}
	founders, odd := []Node{f.self()}, ""
	for _, v := range s.waiting {
		n, apart := v.answer.Node, f.clockObstacle(v)
		switch {
		case v.answer.Expect != f.cfg.Expect:
			odd += fmt.Sprintf("; node %s expects %d nodes, not %d", n.Name, v.answer.Expect, f.cfg.Expect)
		case len(v.answer.Seeds) == 0:
			odd += fmt.Sprintf("; node %s has not looked around yet", n.Name)
		case !slices.Equal(v.answer.Seeds, s.seeds):
			odd += fmt.Sprintf("; node %s has other addresses to join: %s, not %s", n.Name, strings.Join(v.answer.Seeds, ", "), strings.Join(s.seeds, ", "))
		case slices.ContainsFunc(founders, func(o Node) bool { return o.Name == n.Name || o.Address == n.Address }):
			odd += fmt.Sprintf("; node %s at %s has the name or the address of another", n.Name, n.Address)
		case apart != nil: // one of the two gives up, but it may not know yet
			odd += fmt.Sprintf("; %v", apart)
		default:
			founders = append(founders, n)
		}
	}
	if len(founders) < f.cfg.Expect {
		return fmt.Sprintf("%d of %d nodes are there%s%s", len(founders), f.cfg.Expect, missing(s.absent), odd), nil
	}
	return f.decide(ctx, founders[:f.cfg.Expect], nil)
}

// missing lists those that were not reached, with the reasons.
func missing(absent []view) string {
	text := ""
	for _, v := range absent {
		text += fmt.Sprintf("; nobody to talk to at %s: %v", v.address, v.err)
	}
	return text
}

// decide founds the cluster of some nodes. It is written down before anybody is told.
func (f *Former) decide(ctx context.Context, founders []Node, voters []string) (waiting string, err error) {
	if waiting := f.reached(ctx, founders); waiting != "" {
		return waiting, nil
	}
	slices.SortFunc(founders, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for i := range founders {
		founders[i].Voter = i < votersFor(len(founders))
		if len(voters) > 0 {
			founders[i].Voter = slices.Contains(voters, founders[i].Name)
		}
	}
	founding := &Founding{Cluster: clusterID(founders), Nodes: founders, Shards: f.cfg.Shards, Replicas: f.cfg.Replicas}
	if err := f.record.belong(founding.Cluster, founding); err != nil {
		return "", err
	}
	f.cfg.Log.Info("the cluster is founded", "cluster", founding.Cluster, "nodes", names(founders))
	return "", nil
}

// reached checks that founders are where they say that others reach them.
func (f *Former) reached(ctx context.Context, founders []Node) (waiting string) {
	var addresses []string
	var meant []Node
	for _, n := range founders {
		if !slices.Contains(f.cfg.Join, n.Address) {
			addresses, meant = append(addresses, n.Address), append(meant, n)
		}
	}
	for i, v := range f.see(ctx, addresses) {
		if meant[i].Name == f.cfg.Self.Name && itself(v) {
			continue
		}
		if err := is(v, meant[i]); err != nil {
			return err.Error()
		}
	}
	return ""
}

// itself tells whether what was seen at an address is this node.
func itself(v view) bool { return isRefusal(v, peer.ReasonSelf) }

// is says why it was not a node that was seen at its address.
func is(v view, n Node) error {
	const hint = "set --peer-advertise to the address that other nodes reach it at"
	switch {
	case v.err != nil:
		return spec.Errorf(spec.CodeUnavailable, "node %s is not reached at %s, where it says it is: %w", n.Name, v.address, v.err).WithHint(hint)
	case v.answer.Node.Install != n.Install:
		return spec.Errorf(spec.CodeInvalid, "node %s says that it is at %s, where node %s answers", n.Name, v.address, v.answer.Node.Name).WithHint(hint)
	}
	return nil
}

// votersFor is how many nodes of so many make the control group.
func votersFor(nodes int) int {
	if nodes >= 5 {
		return 5
	}
	return min(nodes, 3)
}

// clusterID is the same for the same data folders.
func clusterID(founders []Node) string {
	var installs []string
	for _, n := range founders {
		installs = append(installs, n.Install)
	}
	slices.Sort(installs)
	h := sha256.New()
	for _, install := range installs {
		_, _ = io.WriteString(h, install+"\n")
	}
	return "c" + strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil))[:20])
}

func names(nodes []Node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Name)
	}
	return all
}

// init carries out a user's request to found the cluster.
func (f *Former) init(ctx context.Context, voters []string) error {
	if f.cfg.Expect > 0 {
		return spec.Errorf(spec.CodePrecondition, "the cluster founds itself once %d nodes are there: %s", f.cfg.Expect, f.Waiting())
	}
	s, waiting, err := f.lookAround(ctx)
	switch {
	case err != nil:
		return err
	case f.record.Cluster() != "":
		return errFounded(f.record.Cluster())
	case len(s.members) > 0:
		return spec.Errorf(spec.CodeConflict, "there is a cluster already: %s", waiting)
	}
	founders := []Node{f.self()}
	for _, v := range s.waiting {
		if err := f.clockObstacle(v); err != nil {
			return err
		}
		founders = append(founders, v.answer.Node)
	}
	if err := checkVoters(founders, voters); err != nil {
		return err
	}
	for i, n := range founders {
		for _, o := range founders[:i] {
			if n.Name == o.Name || n.Address == o.Address {
				return spec.Errorf(spec.CodeConflict, "nodes %s at %s and %s at %s have the same name or address", n.Name, n.Address, o.Name, o.Address)
			}
		}
	}
	waiting, err = f.decide(ctx, founders, voters)
	if err == nil && waiting != "" {
		err = spec.Errorf(spec.CodeUnavailable, "%s", waiting)
	}
	return err
}

// checkVoters refuses voters that are not there.
func checkVoters(founders []Node, voters []string) error {
	for i, name := range voters {
		if !slices.Contains(names(founders), name) {
			return spec.Errorf(spec.CodeInvalid, "node %.128q was asked for as a voter and is not there; these are: %s", name, strings.Join(names(founders), ", ")).WithField("voters")
		}
		if slices.Contains(voters[:i], name) {
			return spec.Errorf(spec.CodeInvalid, "node %q is named twice", name).WithField("voters")
		}
	}
	return nil
}
