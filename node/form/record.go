package form

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Node is what nodes tell each other of themselves.
type Node struct {
	Name string `json:"name"`
	// Install is drawn once for a data folder.
	Install  string `json:"install"`
	Address  string `json:"address"` // host:port that other nodes reach it at
	API      string `json:"api"`     // URL of its API
	Version  string `json:"version"`
	Capacity int    `json:"capacity"`
	// Voter says of a founder that it is one of those that make the control group.
	Voter bool `json:"voter,omitempty"`
}

// Founding is how a cluster begins. All its founders have the same.
type Founding struct {
	Cluster  string `json:"cluster"`
	Nodes    []Node `json:"nodes"` // by name
	Shards   int    `json:"shards"`
	Replicas int    `json:"replicas"`
}

// Voters are the founders that make the control group, and where they are.
func (f *Founding) Voters() map[string]string {
	voters := make(map[string]string)
	for _, n := range f.Nodes {
		if n.Voter {
			voters[n.Name] = n.Address
		}
	}
	return voters
}

// founder returns the founder of a name.
func (f *Founding) founder(name string) (Node, bool) {
	if f != nil {
		for _, n := range f.Nodes {
			if n.Name == name {
				return n, true
			}
		}
	}
	return Node{}, false
}

// Identity is what a data folder knows of its place in the world.
type Identity struct {
	Install string `json:"install"`
	// Cluster is the id of the cluster that the folder belongs to, "" while it
	// belongs to none. It is never changed then.
	Cluster string `json:"cluster,omitempty"`
	// Founding is set on those that were there from the beginning.
	Founding *Founding `json:"founding,omitempty"`
	// Listen and Advertise are the addresses of the last start, for one that does
	// not name them.
	Listen    string `json:"listen,omitempty"`
	Advertise string `json:"advertise,omitempty"`
}

// Voters are those that make the control group, if a node is one of them, and none
// if it is not.
func (id Identity) Voters(node string) map[string]string {
	if n, ok := id.Founding.founder(node); !ok || !n.Voter {
		return nil
	}
	return id.Founding.Voters()
}

// Record is the Identity in a node's store. It is safe for concurrent use; one
// goroutine changes it.
type Record struct {
	db  *store.DB
	now atomic.Pointer[Identity]
}

func recordKey() []byte { return store.AppendNodeKey(nil, "node/form", []byte("identity")) }

// OpenRecord reads the Identity. It is empty if the folder was never a clustered
// node's.
func OpenRecord(db *store.DB) (*Record, error) {
	r := &Record{db: db}
	var id Identity
	value, err := db.Get(recordKey())
	if err == nil {
		err = json.Unmarshal(value, &id)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, spec.Errorf(spec.CodeInternal, "what the data folder knows of its cluster can't be read: %w", err)
	}
	r.now.Store(&id)
	return r, nil
}

// Identity returns what is known.
func (r *Record) Identity() Identity { return *r.now.Load() }

// Cluster is the id of the cluster, "" while there is none.
func (r *Record) Cluster() string { return r.now.Load().Cluster }

// Begin notes where the node listens, and draws its install id if it has none.
func (r *Record) Begin(listen, advertise string) error {
	id := r.Identity()
	if id.Install != "" && id.Listen == listen && id.Advertise == advertise {
		return nil
	}
	if id.Install == "" {
		id.Install = rand.Text()
	}
	id.Listen, id.Advertise = listen, advertise
	return r.write(id)
}

// Forget makes the folder one that was never a clustered node's. It belongs to no
// cluster.
func (r *Record) Forget() error {
	if id := r.Identity(); id.Install == "" {
		return nil
	}
	b := r.db.NewBatch()
	b.Delete(recordKey())
	if err := r.db.Commit(b, true); err != nil {
		return fmt.Errorf("forget that the node was to be a cluster's: %w", err)
	}
	r.now.Store(&Identity{})
	return nil
}

// belong makes the folder a cluster's, for ever.
func (r *Record) belong(cluster string, founding *Founding) error {
	id := r.Identity()
	if id.Cluster != "" {
		return fmt.Errorf("the node belongs to cluster %s already", id.Cluster)
	}
	id.Cluster, id.Founding = cluster, founding
	return r.write(id)
}

func (r *Record) write(id Identity) error {
	value, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("note the node's cluster: %w", err)
	}
	b := r.db.NewBatch()
	b.Set(recordKey(), value)
	if err := r.db.Commit(b, true); err != nil {
		return fmt.Errorf("note the node's cluster: %w", err)
	}
	r.now.Store(&id)
	return nil
}
