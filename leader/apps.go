package leader

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// AppsChanged has the leader take over what is deployed now. It returns once new
// triggers are armed and the data of deleted apps is gone.
func (l *Leader) AppsChanged(ctx context.Context) error {
	// In an entry of its own: what is taken over is read from the store.
	if err := l.do(ctx, appsReplaced{}, 0); err != nil {
		return err
	}
	return l.do(ctx, appsChanged{}, 0)
}

// appsReplaced is the command that drops what is left of apps that were deleted and
// deployed again before this leader looked. It reads the store, so it is exclusive.
type appsReplaced struct{}

func (appsReplaced) exclusive() {}

func (appsReplaced) evaluate(t *tx) error {
	t.dropReplaced()
	return nil
}

// deployedAgain lists the deployed apps that were another incarnation when the shard
// took them over.
func (r *reign) deployedAgain() []spec.AppName {
	var names []spec.AppName
	for _, name := range r.leader.cfg.Apps.Names() {
		if r.born[name] != r.leader.cfg.Apps.Incarnation(name) {
			names = append(names, name)
		}
	}
	return names
}

// dropReplaced deletes everything of earlier incarnations of the deployed apps.
func (t *tx) dropReplaced() {
	again := t.deployedAgain()
	if len(again) == 0 {
		return
	}
	known := t.known()
	t.dropAll(slices.DeleteFunc(slices.Clone(again), func(name spec.AppName) bool { return !known[name] }))
	for _, name := range again {
		t.born[name] = t.leader.cfg.Apps.Incarnation(name)
		t.write(store.AppendIncarnationKey(nil, t.shard(), name), store.AppendIncarnation(nil, t.born[name]))
	}
	t.noteDeployed()
}

// noteDeployed keeps what the shard has taken over with what follows from it, for
// leaders on nodes that do not know it yet. The index is read last: it is no lower
// than that of what was read before.
func (t *tx) noteDeployed() {
	if index := t.leader.cfg.Apps.Index(); index > t.deployedAt {
		t.deployedAt = index
		t.write(store.AppendDeployedKey(nil, t.shard()), store.AppendCount(nil, index))
	}
}

// loadIncarnations reads which incarnation of each app the shard's data are of.
func (r *reign) loadIncarnations() error {
	lower, upper := store.Bounds(store.AppendIncarnationsPrefix(nil, r.leader.cfg.Shard))
	var damaged error
	err := r.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		app, keyErr := store.DecodeIncarnationKey(k)
		incarnation, err := store.DecodeIncarnation(v)
		damaged = errors.Join(keyErr, err)
		r.born[app] = incarnation
		return damaged == nil
	})
	return errors.Join(err, damaged)
}

// appsChanged is the command that takes over what is deployed. It reads the store,
// so it is exclusive.
type appsChanged struct{}

func (appsChanged) exclusive() {}

func (appsChanged) evaluate(t *tx) error {
	t.takeApps()
	t.parking.freed = true // for what waits because its app could not be read
	return nil
}

// takeApps makes the newest version of each app the one that new sessions run on.
func (t *tx) takeApps() {
	deployed := map[spec.AppName]bool{}
	changed := false
	for _, name := range t.leader.cfg.Apps.Names() {
		deployed[name] = true // also if this program can't read it
		app, version, ok := t.leader.cfg.Apps.App(name, 0)
		if !ok {
			continue
		}
		if t.born[name] != t.leader.cfg.Apps.Incarnation(name) {
			continue // replaced meanwhile: whoever replaced it tells again
		}
		if p := t.newest[name]; p != nil && p.version == version {
			continue
		}
		t.forgetPlans(name)
		p, _ := t.plan(name, version)
		t.newest[name] = p
		changed = true
		t.forgetReplaced(p)
		t.startWindows(app, p)
	}
	gone := t.undeployed(deployed)
	t.dropAll(gone)
	if changed || len(gone) > 0 {
		t.noteDeployed()
	}
}

// undeployed lists the apps that are known here, by their data, their changes or
// because they were deployed, and that are deployed no more.
func (t *tx) undeployed(deployed map[spec.AppName]bool) []spec.AppName {
	known := t.known()
	maps.DeleteFunc(known, func(name spec.AppName, _ bool) bool { return deployed[name] })
	return slices.Sorted(maps.Keys(known))
}

// known lists the apps that have left something here, or are deployed.
func (t *tx) known() map[spec.AppName]bool {
	known := t.stored()
	maps.Copy(known, t.changes.apps)
	for name := range t.newest {
		known[name] = true
	}
	return known
}

// dropAll deletes everything of apps that are not deployed any more.
func (t *tx) dropAll(apps []spec.AppName) {
	for _, app := range apps {
		t.drop(app)
	}
	t.dropEvents(apps)
}

// forgetPlans drops what was worked out for versions of an app. Sessions that are
// in memory keep theirs, and others ask for it again.
func (t *tx) forgetPlans(app spec.AppName) {
	for name := range t.plans {
		if name.app == app {
			delete(t.plans, name)
		}
	}
}

// forgetReplaced drops machines of scope bucket from memory whose trigger is of
// an older version of the app. They are loaded again under the new one; those of
// triggers that are gone, have become another primitive, or count deletions now
// and puts before, are deleted.
func (t *tx) forgetReplaced(p *plan) {
	for name := range t.machines {
		if name.app == p.app.Name {
			delete(t.machines, name)
		}
	}
	t.unstall(p.app.Name)
	lower, upper := store.Bounds(store.AppendTriggerStatesPrefix(nil, t.shard(), p.app.Name, ""))
	err := t.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		key, err := store.DecodeTriggerStateKey(k)
		if err == nil {
			var rec store.TriggerState
			if rec, err = store.DecodeTriggerState(v); err == nil {
				name := machineName{app: p.app.Name, bucket: key.Bucket, trigger: key.Trigger}
				t.goOn(name, findTrigger(p.app, key.Bucket, key.Trigger), &rec)
			}
		}
		if err != nil {
			t.broken(err)
			return false
		}
		return true
	})
	if err != nil {
		t.broken(err)
	}
}

// goOn has a trigger of a newer version, nil if it is gone, take over the state of
// the one that had its name before, or deletes that.
func (t *tx) goOn(name machineName, tr *spec.Trigger, rec *store.TriggerState) {
	if tr == nil || tr.Scope != spec.ScopeBucket || tr.Primitive != rec.Primitive {
		t.forgetMachine(name, rec.Timer)
		return
	}
	if deleted, holds := t.heldDeleted(name); !holds || counts(tr, deleted) {
		return
	}
	t.forgetMachine(name, rec.Timer)
	t.machines[name] = t.newMachine(name, tr) // the store still has the old one
}

// startWindows ticks the triggers of scope bucket that live on this shard: windows
// are armed before the first object comes, and what new options have made due fires.
func (t *tx) startWindows(app *spec.App, p *plan) {
	for bucket, b := range app.Buckets {
		if t.leader.cfg.Router.ShardOf(spec.BucketSlot(app.Name, bucket)) != t.shard() {
			continue
		}
		for _, tr := range b.Triggers {
			if tr.Scope == spec.ScopeBucket {
				t.stepBucket(p, bucket, tr, triggers.Event{Kind: triggers.Tick})
			}
		}
	}
}

// stored lists the apps that have sessions or objects on this shard.
func (t *tx) stored() map[spec.AppName]bool {
	found, err := store.Apps(t.leader.cfg.DB, t.shard())
	if err != nil {
		t.broken(err)
	}
	return found
}

// drop deletes everything of an app but its changes.
func (t *tx) drop(app spec.AppName) {
	t.leader.cfg.Log.Info("drop the data of a deleted app", "app", app)
	for name, s := range t.sessions {
		if name.app != app {
			continue
		}
		for _, inv := range s.pending {
			t.letGoBuffered(inv)
			if inv.dispatched {
				t.halt(inv)
			}
		}
		s.purged, s.pending = true, nil
		delete(t.sessions, name)
	}
	t.forgetPending(app)
	t.parking.drop(app)
	t.onApplied(func() { t.leader.hub.dropped(app) })
	for name := range t.machines {
		if name.app == app {
			delete(t.machines, name)
		}
	}
	t.unstall(app)
	t.forgetPlans(app)
	delete(t.newest, app)
	delete(t.born, app)
	t.batch.DeleteRanges(store.AppRanges(t.shard(), app))
	t.dropMail(app)
}

// dropMail deletes an app's messages to other shards: nobody waits for them, and
// the bytes that they refer to are gone.
func (t *tx) dropMail(app spec.AppName) {
	lower, upper := store.Bounds(store.AppendOutboxPrefix(nil, t.shard()))
	t.scan(lower, upper, func(k, v []byte) error {
		m, err := store.DecodeMail(v)
		if err == nil && m.App == app {
			t.erase(k)
			t.mailN.Add(-1)
		}
		return err
	})
	last := t.counters.Mail
	t.onApplied(func() { t.outbox.drop(app, last) })
}

// errEnough ends a scan before its end.
var errEnough = errors.New("enough")

// scan reads a range of the store, up to where fn returns an error.
func (t *tx) scan(lower, upper []byte, fn func(k, v []byte) error) {
	var damaged error
	err := t.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		damaged = fn(k, v)
		return damaged == nil
	})
	if damaged == errEnough {
		damaged = nil
	}
	if err = errors.Join(err, damaged); err != nil {
		t.broken(err)
	}
}
