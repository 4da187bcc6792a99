package control

import (
	"bytes"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Bounds of what the group holds: all of it is in the memory of every node.
const (
	maxApps         = 10_000
	maxArtifacts    = 100_000
	maxSettings     = 10_000
	maxSettingBytes = 64 << 10
	maxShards       = 1024
	// recentKept is far more than are under way when a leader is lost.
	recentKept = 256
)

// change makes the State after c from s, and leaves s alone. On an error nothing
// changed. It depends on nothing but its arguments: all nodes run it. A change
// with an id is made once, however often it comes.
func (s *State) change(index uint64, id string, c Command) (*State, Result, error) {
	if id != "" {
		i := slices.IndexFunc(s.Recent, func(r Recent) bool { return r.ID == id })
		if i >= 0 {
			return s, s.Recent[i].Result, nil
		}
	}
	next := *s
	next.Index = index
	r := Result{Index: index}
	err := next.make(c, &r)
	if err != nil || !r.Changed && (id == "" || !deploys(c)) {
		r.Index = s.Index
		return s, r, err
	}
	if id != "" {
		kept := s.Recent[max(0, len(s.Recent)+1-recentKept):]
		next.Recent = append(slices.Clone(kept), Recent{id, r})
	}
	return &next, r, nil
}

// deploys tells whether a command says what is to be deployed. One that is there
// already changes nothing when it comes, but would undo what others deploy until it
// comes again.
func deploys(c Command) bool {
	switch c.(type) {
	case *ApplyApp, *RollbackApp:
		return true
	}
	return false
}

func (s *State) make(c Command, r *Result) error {
	switch c := c.(type) {
	case *ApplyApp:
		return s.applyApp(c, r)
	case *DeleteApp:
		return s.deleteApp(c, r)
	case *RollbackApp:
		return s.rollbackApp(c, r)
	case *PutArtifact:
		return s.putArtifact(c, r)
	case *DeleteArtifact:
		return s.deleteArtifact(c, r)
	case *Set:
		return s.set(c, r)
	case *InitPlacement:
		return s.initPlacement(c, r)
	case *SetCluster:
		return s.setCluster(c, r)
	case *PutMember:
		return s.putMember(c, r)
	case *RemoveMember:
		return s.removeMember(c, r)
	case *SetDraining:
		return s.setDraining(c, r)
	case *AddReplica:
		return s.addReplica(c, r)
	case *ReplicaJoined:
		return s.replicaJoined(c, r)
	case *RemoveReplica:
		return s.removeReplica(c, r)
	}
	return spec.Errorf(spec.CodeInvalid, "command %s is no change", c.kind())
}

func (s *State) applyApp(c *ApplyApp, r *Result) error {
	if c.Name == "" || len(c.Name) > spec.MaxNameBytes {
		return spec.Errorf(spec.CodeInvalid, "app name of %d bytes: it has 1 to %d", len(c.Name), spec.MaxNameBytes).WithField("app")
	}
	if err := s.expect(c.Name, c.Expected); err != nil {
		return err
	}
	if _, ok := s.Artifacts[c.Artifact]; c.Artifact != "" && !ok {
		return spec.Errorf(spec.CodePrecondition, "artifact %s is not there", c.Artifact).
			WithField("artifact").WithHint("upload it, then apply again")
	}
	return s.addVersion(&AppVersion{
		Name: c.Name, AppliedAt: c.At, Manifest: c.Manifest, Spec: c.Spec, Artifact: c.Artifact,
	}, r)
}

// addVersion gives v the next number of its app, unless the current version is the
// same.
func (s *State) addVersion(v *AppVersion, r *Result) error {
	if now, ok := s.Current(v.Name); ok && bytes.Equal(now.Spec, v.Spec) && now.Artifact == v.Artifact {
		r.Version = now.Version
		return nil
	}
	record := AppRecord{Name: v.Name}
	if a := s.Apps[v.Name]; a != nil {
		record = *a
	} else if len(s.Apps) >= maxApps {
		return spec.Errorf(spec.CodeOverloaded, "there are %d apps, no more fit", len(s.Apps))
	}
	record.Last++
	v.Version = record.Last
	if record.Deleted {
		record.Incarnation++
	}
	record.Deleted, record.DeletedAt = false, time.Time{}
	record.Versions = append(slices.Clone(record.Versions), v)
	if extra := len(record.Versions) - MaxVersions; extra > 0 {
		record.Versions = record.Versions[extra:]
	}
	s.putApp(&record)
	r.Version, r.Changed = v.Version, true
	return nil
}

func (s *State) putApp(a *AppRecord) {
	s.Apps = cloned(s.Apps)
	s.Apps[a.Name] = a
}

// expect checks that version is the newest one, if it matters.
func (s *State) expect(name spec.AppName, version *uint64) error {
	if version == nil {
		return nil
	}
	var current uint64
	if now, ok := s.Current(name); ok {
		current = now.Version
	}
	switch {
	case current == *version:
		return nil
	case *version == 0:
		return spec.Errorf(spec.CodeConflict, "app %s is there already, at version %d", name, current)
	case current == 0:
		return spec.Errorf(spec.CodeConflict, "app %s is not deployed, version %d was expected", name, *version)
	}
	return spec.Errorf(spec.CodeConflict, "app %s is at version %d, %d was expected: someone else has changed it", name, current, *version)
}

func (s *State) deleteApp(c *DeleteApp, r *Result) error {
	now, ok := s.Current(c.Name)
	if !ok {
		return spec.NoApp(c.Name, s.Names())
	}
	if err := s.expect(c.Name, c.Expected); err != nil {
		return err
	}
	record := *s.Apps[c.Name]
	record.Deleted, record.DeletedAt = true, c.At
	s.putApp(&record)
	r.Version, r.Changed = now.Version, true
	return nil
}

func (s *State) rollbackApp(c *RollbackApp, r *Result) error {
	if err := s.expect(c.Name, c.Expected); err != nil {
		return err
	}
	a := s.Apps[c.Name]
	if a == nil {
		return spec.NoApp(c.Name, s.Names())
	}
	i := slices.IndexFunc(a.Versions, func(v *AppVersion) bool { return v.Version == c.Version })
	if i < 0 {
		return spec.Errorf(spec.CodeNotFound, "version %d of app %s is not kept: %d to %d are", c.Version, c.Name,
			a.Versions[0].Version, a.Last).WithField("version")
	}
	old := a.Versions[i]
	return s.addVersion(&AppVersion{
		Name: c.Name, AppliedAt: c.At, Manifest: old.Manifest, Spec: old.Spec, Artifact: old.Artifact,
	}, r)
}

func (s *State) putArtifact(c *PutArtifact, r *Result) error {
	if raw, err := hex.DecodeString(c.Sum); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != c.Sum {
		return spec.Errorf(spec.CodeInvalid, "%.80q is not a SHA-256 in lower-case hex", c.Sum).WithField("artifact")
	}
	if c.Size < 0 {
		return spec.Errorf(spec.CodeInvalid, "artifact %s of %d bytes", c.Sum, c.Size).WithField("size")
	}
	if _, ok := s.Artifacts[c.Sum]; ok {
		return nil
	}
	if len(s.Artifacts) >= maxArtifacts {
		return spec.Errorf(spec.CodeOverloaded, "there are %d artifacts, no more fit", len(s.Artifacts))
	}
	s.Artifacts = cloned(s.Artifacts)
	s.Artifacts[c.Sum] = Artifact{Size: c.Size, Created: c.At}
	r.Changed = true
	return nil
}

func (s *State) deleteArtifact(c *DeleteArtifact, r *Result) error {
	if _, ok := s.Artifacts[c.Sum]; !ok {
		return nil
	}
	for _, a := range s.Apps {
		for _, v := range a.Versions {
			if v.Artifact == c.Sum {
				return spec.Errorf(spec.CodeConflict, "artifact %s is in use by an app", c.Sum)
			}
		}
	}
	s.Artifacts = cloned(s.Artifacts)
	delete(s.Artifacts, c.Sum)
	r.Changed = true
	return nil
}

func (s *State) set(c *Set, r *Result) error {
	if c.Key == "" || len(c.Key)+len(c.Value) > maxSettingBytes {
		return spec.Errorf(spec.CodeInvalid, "a setting has a key, and key and value have at most %d bytes", maxSettingBytes)
	}
	old, ok := s.Settings[c.Key]
	if old == c.Value {
		return nil
	}
	if !ok && len(s.Settings) >= maxSettings {
		return spec.Errorf(spec.CodeOverloaded, "there are %d settings, no more fit", len(s.Settings))
	}
	s.Settings = cloned(s.Settings)
	s.Settings[c.Key] = c.Value
	if c.Value == "" {
		delete(s.Settings, c.Key)
	}
	r.Changed = true
	return nil
}

// cloned returns a copy that can be written to, of a nil map too.
func cloned[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}
