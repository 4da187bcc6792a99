package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/exec/artifact"
	"github.com/pheromone-run/pheromone/exec/wasm"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/triggers"
)

// App implements leader.Apps.
func (n *Node) App(name spec.AppName, version uint64) (*spec.App, uint64, bool) {
	v, ok := n.control.State().Version(name, version)
	if !ok {
		return nil, 0, false
	}
	app, err := v.App()
	if err != nil {
		n.cfg.Log.Error("an app can't be read", "app", name, "version", version, "error", err)
		return nil, 0, false
	}
	return app, v.Version, true
}

// Names implements leader.Apps.
func (n *Node) Names() []spec.AppName { return n.control.State().Names() }

// Incarnation implements leader.Apps.
func (n *Node) Incarnation(name spec.AppName) uint64 { return n.control.State().Incarnation(name) }

// Index implements leader.Apps.
func (n *Node) Index() uint64 { return n.control.State().Index }

// Await implements leader.Apps.
func (n *Node) Await(ctx context.Context, index uint64) error { return n.awaitControl(ctx, index) }

// catchUpWait bounds how long a request waits for what other nodes have deployed.
const catchUpWait = 3 * time.Second

// catchUp waits until this node knows all that was deployed before the call, on
// any node.
func (n *Node) catchUp(ctx context.Context) error {
	if n.network == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	if err := n.control.ReadBarrier(ctx); err != nil {
		return spec.Errorf(spec.CodeUnavailable, "what is deployed can't be confirmed just now: %w", err)
	}
	return nil
}

// deployed returns the newest version of an app that is known here. One that is
// not known is looked for once more after catching up.
func (n *Node) deployed(ctx context.Context, name spec.AppName) (*spec.App, error) {
	if app, _, ok := n.App(name, 0); ok {
		return app, nil
	}
	return n.newest(ctx, name)
}

// newest is deployed after catching up.
func (n *Node) newest(ctx context.Context, name spec.AppName) (*spec.App, error) {
	if err := n.catchUp(ctx); err != nil {
		return nil, err
	}
	app, _, ok := n.App(name, 0)
	if !ok {
		return nil, spec.NoApp(name, n.Names())
	}
	return app, nil
}

// Apply implements api.Apps.
func (n *Node) Apply(ctx context.Context, name spec.AppName, manifest []byte, o api.ApplyOptions) (wire.ApplyResult, error) {
	app, warnings, err := spec.ParseChecked(string(name), manifest, spec.FormatYAML, triggers.Check)
	if err != nil {
		return wire.ApplyResult{}, err
	}
	if app.Name != name {
		return wire.ApplyResult{}, spec.Errorf(spec.CodeInvalid, "the manifest is of app %q, the request's path says %q", app.Name, name).WithField("app")
	}
	if err := n.runnable(ctx, app, o); err != nil {
		return wire.ApplyResult{}, err
	}
	if err := n.catchUp(ctx); err != nil {
		return wire.ApplyResult{}, err
	}
	app.Artifact = o.Artifact
	res := wire.ApplyResult{App: name, DryRun: o.DryRun, Warnings: warnings, Changes: []wire.Change{}}
	var old *spec.App
	expected := uint64(0)
	if current, version, ok := n.App(name, 0); ok {
		old, expected = current, version
	}
	res.Version = expected
	res.Changes = append(res.Changes, spec.Diff(old, app)...)
	if o.DryRun {
		return res, nil
	}
	done, err := n.deploy(ctx, &control.ApplyApp{
		Name: name, Expected: &expected, Manifest: manifest, Spec: app.Manifest(), Artifact: o.Artifact, At: n.now(),
	}, o.IdempotencyKey, "apply", string(name), string(manifest), o.Artifact)
	if err != nil {
		return wire.ApplyResult{}, err
	}
	res.Version = done.Version
	if done.Version <= expected { // an earlier try, or nothing to do
		res.Changes = []wire.Change{}
		if done.Changed {
			res.Changes = n.changesOf(name, done.Version)
		}
	}
	return res, n.appsChanged(ctx)
}

// deploy makes a change of what is deployed, under an idempotency key once: other
// people may have deployed something else when it comes again. The content is part of
// the name, so that a key that is used for something else does not stand in its way.
func (n *Node) deploy(ctx context.Context, c control.Command, key string, content ...string) (control.Result, error) {
	if key == "" {
		return n.control.Apply(ctx, c)
	}
	hash := sha256.New()
	for _, part := range append(content, key) {
		_, _ = fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return n.control.ApplyOnce(ctx, c, "request-"+hex.EncodeToString(hash.Sum(nil)))
}

// changesOf tells what a version of an app changed.
func (n *Node) changesOf(name spec.AppName, version uint64) []wire.Change {
	app, have, ok := n.App(name, version)
	if !ok || have != version { // it is not kept any more
		return []wire.Change{}
	}
	var old *spec.App
	if version > 1 {
		if before, have, ok := n.App(name, version-1); ok && have == version-1 {
			old = before
		}
	}
	return append([]wire.Change{}, spec.Diff(old, app)...)
}

// runnable tells whether this node can run what an app declares.
func (n *Node) runnable(ctx context.Context, app *spec.App, o api.ApplyOptions) error {
	// A dry run tells what would change before anything is uploaded.
	if o.Artifact != "" && !o.DryRun {
		if err := n.extractable(ctx, o.Artifact); err != nil {
			return err
		}
	}
	for name, f := range app.Functions {
		if f.Runtime == spec.RuntimeInproc && n.cfg.Inproc == nil {
			return spec.Errorf(spec.CodeInvalid, "function %q has runtime inproc, which is for programs that embed a node: this one runs runtime process", name).
				WithField("functions." + string(name) + ".runtime")
		}
		if f.Runtime == spec.RuntimeWasm && len(n.cfg.ModuleHost) == 0 {
			return spec.Errorf(spec.CodeInvalid, "function %q has runtime wasm, and the program that embeds this node hosts no modules", name).
				WithField("functions." + string(name) + ".runtime")
		}
	}
	return n.modulesRunnable(ctx, app, o)
}

// modulesRunnable looks at the modules of an app, so that one that can't be run is
// refused here and not by the first attempt.
func (n *Node) modulesRunnable(ctx context.Context, app *spec.App, o api.ApplyOptions) error {
	if o.DryRun {
		return nil
	}
	type kind struct {
		file   string
		memory int64
	}
	seen := map[kind]bool{}
	for _, name := range slices.Sorted(maps.Keys(app.Functions)) {
		f := app.Functions[name]
		if f.Runtime != spec.RuntimeWasm || seen[kind{f.File, f.Memory}] {
			continue
		}
		seen[kind{f.File, f.Memory}] = true
		dir, err := n.artifacts.Dir(ctx, o.Artifact)
		if err != nil {
			return fmt.Errorf("extract the artifact: %w", err)
		}
		if err := wasm.Check(dir, f); err != nil {
			return spec.Errorf(spec.CodeInvalid, "function %q can't be run in the module %s: %w", name, f.File, err).
				WithField("functions." + string(name) + ".file")
		}
	}
	return nil
}

// extractable extracts an artifact, so that one that is none is refused here and
// not by the first attempt.
func (n *Node) extractable(ctx context.Context, sum string) error {
	if err := n.artifacts.Get(ctx, sum); err != nil {
		return spec.Errorf(spec.CodeOf(err), "get artifact %s from another node: %w", sum, err).WithField("artifact")
	}
	if !n.artifacts.Has(sum) {
		return spec.Errorf(spec.CodeNotFound, "artifact %s is not here: upload it first", sum).WithField("artifact")
	}
	_, err := n.artifacts.Dir(ctx, sum)
	if e, ok := errors.AsType[*spec.Error](err); ok {
		return e.WithField("artifact")
	}
	if err != nil {
		return fmt.Errorf("extract the artifact: %w", err)
	}
	return nil
}

// appsChanged has every leader take over what is deployed, wherever it is.
func (n *Node) appsChanged(ctx context.Context) error {
	args := appsArgs{Index: n.control.State().Index}
	var group errgroup.Group
	for _, id := range n.shardIDs() {
		group.Go(func() error {
			_, _, err := ask(ctx, n, &n.questions.appsChanged, id, args, nil)
			return err
		})
	}
	return group.Wait()
}

// appsChangedHere has the leaders of this node take over what is deployed.
func (n *Node) appsChangedHere(ctx context.Context) error {
	var group errgroup.Group
	for _, l := range n.localShards() {
		if l.leader.Leading() { // one that begins to lead reads what is deployed
			group.Go(func() error {
				if err := l.leader.AppsChanged(ctx); !errors.Is(err, leader.ErrNotTaken) {
					return err
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// awaitControl waits until this node's copy of the control state has a change.
func (n *Node) awaitControl(ctx context.Context, index uint64) error {
	for {
		changed := n.control.Changed()
		if n.control.State().Index >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return spec.Errorf(spec.CodeUnavailable, "node %s does not know the newest apps yet: %w", n.cfg.Name, ctx.Err())
		}
	}
}

// takeOverAgain is how long a leader that could not take over a change is left alone.
const takeOverAgain = time.Second

// followApps has the leaders take over changes that did not come through this
// node's API.
func (n *Node) followApps() {
	for {
		changed := n.control.Changed()
		n.removeLogs()
		var again <-chan time.Time
		if err := n.appsChangedHere(n.ctx); err != nil {
			n.cfg.Log.Warn("a change of the apps is not taken over yet and tried again", "error", err)
			again = time.After(takeOverAgain)
		}
		select {
		case <-changed:
		case <-again:
		case <-n.ctx.Done():
			return
		}
	}
}

// removeLogs removes what functions of deleted apps printed here.
func (n *Node) removeLogs() {
	for name, record := range n.control.State().Apps {
		if !record.Deleted {
			continue
		}
		if err := n.logs.Remove(name); err != nil {
			n.cfg.Log.Warn("the log of a deleted app is not removed", "app", name, "error", err)
		}
	}
}

// ListApps implements api.Apps.
func (n *Node) ListApps(ctx context.Context) ([]wire.App, error) {
	if err := n.catchUp(ctx); err != nil {
		return nil, err
	}
	state := n.control.State()
	apps := []wire.App{}
	for _, name := range state.Names() {
		if v, ok := state.Current(name); ok {
			apps = append(apps, wire.App{Name: name, Version: v.Version, AppliedAt: v.AppliedAt, Artifact: v.Artifact})
		}
	}
	return apps, nil
}

// GetApp implements api.Apps.
func (n *Node) GetApp(ctx context.Context, name spec.AppName, version uint64) (wire.App, error) {
	if err := n.catchUp(ctx); err != nil {
		return wire.App{}, err
	}
	v, ok := n.control.State().Version(name, version)
	if !ok || version != 0 && v.Version != version {
		if version == 0 {
			return wire.App{}, spec.NoApp(name, n.Names())
		}
		return wire.App{}, spec.Errorf(spec.CodeNotFound, "app %q has no version %d, or it is not kept any more", name, version)
	}
	return wireApp(v), nil
}

func wireApp(v *control.AppVersion) wire.App {
	return wire.App{Name: v.Name, Version: v.Version, AppliedAt: v.AppliedAt, Artifact: v.Artifact, Spec: v.Spec, Manifest: string(v.Manifest)}
}

// AppVersions implements api.Apps.
func (n *Node) AppVersions(ctx context.Context, name spec.AppName) ([]wire.App, error) {
	if err := n.catchUp(ctx); err != nil {
		return nil, err
	}
	record := n.control.State().Apps[name]
	if record == nil || record.Deleted {
		return nil, spec.NoApp(name, n.Names())
	}
	versions := []wire.App{}
	for i := len(record.Versions) - 1; i >= 0; i-- {
		v := record.Versions[i]
		versions = append(versions, wire.App{Name: name, Version: v.Version, AppliedAt: v.AppliedAt, Artifact: v.Artifact})
	}
	return versions, nil
}

// Rollback implements api.Apps: a new version with the content of an old one.
func (n *Node) Rollback(ctx context.Context, name spec.AppName, version uint64, key string) (wire.ApplyResult, error) {
	if err := n.catchUp(ctx); err != nil {
		return wire.ApplyResult{}, err
	}
	_, current, ok := n.App(name, 0)
	if !ok {
		return wire.ApplyResult{}, spec.NoApp(name, n.Names())
	}
	if err := n.evaluable(name, version); err != nil {
		return wire.ApplyResult{}, err
	}
	done, err := n.deploy(ctx, &control.RollbackApp{Name: name, Version: version, Expected: &current, At: n.now()},
		key, "rollback", string(name), strconv.FormatUint(version, 10))
	if err != nil {
		return wire.ApplyResult{}, err
	}
	res := wire.ApplyResult{App: name, Version: done.Version, Changes: []wire.Change{}}
	if done.Changed {
		res.Changes = n.changesOf(name, done.Version)
	}
	return res, n.appsChanged(ctx)
}

// evaluable tells whether this program has all the primitives of an old version,
// which another program may have taken.
func (n *Node) evaluable(name spec.AppName, version uint64) error {
	old, have, ok := n.App(name, version)
	if !ok || have != version {
		return nil // told by who looks for it
	}
	for bucket, b := range old.Buckets {
		for _, tr := range b.Triggers {
			if err := triggers.Check(tr); err != nil {
				return spec.Errorf(spec.CodeInvalid, "version %d of app %q can't be run by this node: bucket %q: %w", version, name, bucket, err)
			}
		}
	}
	return nil
}

// DeleteApp implements api.Apps. It returns once all data of the app is gone.
func (n *Node) DeleteApp(ctx context.Context, name spec.AppName) error {
	if _, err := n.control.Apply(ctx, &control.DeleteApp{Name: name, At: n.now()}); err != nil {
		return err
	}
	return errors.Join(n.logs.Remove(name), n.appsChanged(ctx))
}

// PutArtifact implements api.Apps.
func (n *Node) PutArtifact(ctx context.Context, _ spec.AppName, sum string, body io.Reader) (bool, error) {
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != sum {
		return false, spec.Errorf(spec.CodeInvalid, "an artifact is named by its SHA-256 in 64 lower-case hexadecimal digits, this is %q", sum).WithField("artifact")
	}
	if err := n.db.Writable(); err != nil {
		return false, err
	}
	counted := &countingReader{from: body}
	existed, err := n.artifacts.Put(ctx, sum, counted, artifact.MaxBytes)
	if err != nil {
		return false, err
	}
	// Also if it existed: who sent it before may have been told of a failure.
	if err := n.spreadArtifact(ctx, sum); err != nil {
		return false, err
	}
	if existed {
		return true, nil
	}
	_, err = n.control.Apply(ctx, &control.PutArtifact{Sum: sum, Size: counted.n, At: n.now()})
	return false, err
}

type countingReader struct {
	from io.Reader
	n    int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.n += int64(n)
	return n, err
}

// HasArtifact implements api.Apps.
func (n *Node) HasArtifact(_ context.Context, _ spec.AppName, sum string) (bool, error) {
	return n.artifacts.Has(sum), nil
}
