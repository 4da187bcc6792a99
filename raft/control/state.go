package control

import (
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// State is what the group agrees on at one point. It and all it refers to never
// change; the next State shares what stayed.
type State struct {
	Index uint64 `json:"index"` // of the last change
	// Cluster is the cluster's id, once it has one; it never changes then.
	Cluster   string                      `json:"cluster,omitempty"`
	Members   map[string]Member           `json:"members,omitempty"` // by name
	Apps      map[spec.AppName]*AppRecord `json:"apps"`
	Artifacts map[string]Artifact         `json:"artifacts"` // by SHA-256, hex
	Placement Placement                   `json:"placement"`
	Settings  map[string]string           `json:"settings"`
	// Recent are the newest changes that came with an id, oldest first, at most
	// recentKept: what comes again is answered as it was the first time.
	Recent []Recent `json:"recent,omitempty"`
}

// Recent is a change that was made, and its result.
type Recent struct {
	ID     string `json:"id"`
	Result Result `json:"result"`
}

// AppRecord is an app with its versions.
type AppRecord struct {
	Name spec.AppName `json:"name"`
	// Versions are the newest ones, oldest first, at most MaxVersions.
	Versions []*AppVersion `json:"versions"`
	// Last is the highest number ever given to a version.
	Last uint64 `json:"last"`
	// Deleted says that the app is not deployed. Its versions stay for sessions
	// that still run; the next one that is applied has the next number.
	Deleted   bool      `json:"deleted,omitempty"`
	DeletedAt time.Time `json:"deleted_at,omitzero"`
	// Incarnation counts how often the app was deployed again after it had been
	// deleted: what is kept of an earlier one belongs to the past, for those too who
	// see the app only before and after.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

// MaxVersions is how many versions of an app are kept.
const MaxVersions = 50

// AppVersion is one version of an app.
type AppVersion struct {
	Version   uint64       `json:"version"`
	AppliedAt time.Time    `json:"applied_at"`
	Name      spec.AppName `json:"name"`
	Manifest  []byte       `json:"manifest"` // as it was sent
	Spec      []byte       `json:"spec"`     // canonical JSON
	Artifact  string       `json:"artifact,omitempty"`

	parse sync.Once
	app   *spec.App
	err   error
}

// App returns the version as the app that it declares. It is parsed once.
func (v *AppVersion) App() (*spec.App, error) {
	v.parse.Do(func() {
		app, _, err := spec.Parse(string(v.Name), v.Spec, spec.FormatJSON)
		if err != nil {
			v.err = spec.Errorf(spec.CodeInternal, "version %d of app %s can't be read any more: %w", v.Version, v.Name, err)
			return
		}
		app.Artifact = v.Artifact
		v.app = app
	})
	return v.app, v.err
}

// Artifact is what is known of an uploaded folder.
type Artifact struct {
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
}

// Current returns the newest version of a deployed app.
func (s *State) Current(name spec.AppName) (*AppVersion, bool) {
	a := s.Apps[name]
	if a == nil || a.Deleted || len(a.Versions) == 0 {
		return nil, false
	}
	return a.Versions[len(a.Versions)-1], true
}

// Version returns a version of an app: the newest for 0, if the app is deployed;
// else the one asked for, deployed or deleted, or the oldest one that is still
// kept if that is newer.
func (s *State) Version(name spec.AppName, version uint64) (*AppVersion, bool) {
	if version == 0 {
		return s.Current(name)
	}
	a := s.Apps[name]
	if a == nil || len(a.Versions) == 0 || version > a.Last {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(a.Versions, version, func(v *AppVersion, want uint64) int {
		return int(int64(v.Version - want))
	})
	if i == len(a.Versions) {
		return nil, false
	}
	return a.Versions[i], true
}

// Incarnation returns how often an app was deployed again after it had been deleted.
func (s *State) Incarnation(name spec.AppName) uint64 {
	if a := s.Apps[name]; a != nil {
		return a.Incarnation
	}
	return 0
}

// Names lists the deployed apps in order.
func (s *State) Names() []spec.AppName {
	var names []spec.AppName
	for name := range s.Apps {
		if _, ok := s.Current(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
