package leader

import (
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
)

// plan is a version of an app with what evaluation asks of it worked out.
type plan struct {
	app     *spec.App
	version uint64
	// stages are the triggers that fire once functions are done, with their
	// buckets; an app without any need not count invocations by function.
	stages []stage
	// cancels says that a redundant trigger of the app cancels the rest.
	cancels bool
	// reruns are the re-execution rules by the function that they run again.
	reruns map[spec.FunctionName][]expectation
	// hastens says that a bucket of the app is pipelined or ephemeral.
	hastens bool
	// stateless are machines that serve all sessions on this version.
	stateless map[triggerName]*machine
}

// triggerName names a trigger of an app.
type triggerName struct {
	bucket  spec.BucketName
	trigger spec.TriggerName
}

// readsHistory tells whether evaluation reads invocations back that have ended.
func (p *plan) readsHistory() bool { return p.cancels || len(p.reruns) > 0 }

// durability is that of a bucket, declared or implied.
func (p *plan) durability(bucket spec.BucketName) spec.Durability { return durability(p.app, bucket) }

func durability(app *spec.App, bucket spec.BucketName) spec.Durability {
	if b := app.Buckets[bucket]; b != nil {
		return b.Durability
	}
	return app.Durability
}

// hastened tells whether the triggers of a bucket fire early.
func (p *plan) hastened(bucket spec.BucketName) bool { return p.durability(bucket) != spec.Durable }

// ephemeral tells whether nobody waits for the commit of what is put into a bucket.
func (p *plan) ephemeral(bucket spec.BucketName) bool { return p.durability(bucket) == spec.Ephemeral }

// stage is a dynamic_group trigger with until functions.
type stage struct {
	bucket  spec.BucketName
	trigger *spec.Trigger
}

type planName struct {
	app     spec.AppName
	version uint64
}

// plan returns a version of an app: the one asked for, or the oldest that is
// still kept.
func (r *reign) plan(app spec.AppName, version uint64) (*plan, bool) {
	if p, ok := r.plans[planName{app, version}]; ok {
		return p, true
	}
	a, have, ok := r.leader.cfg.Apps.App(app, version)
	if !ok {
		return nil, false
	}
	if p, ok := r.plans[planName{app, have}]; ok {
		return p, true
	}
	p := &plan{app: a, version: have, hastens: a.Durability != spec.Durable, stateless: make(map[triggerName]*machine)}
	for name, b := range a.Buckets {
		p.hastens = p.hastens || b.Durability != spec.Durable
		for _, tr := range b.Triggers {
			p.cancels = p.cancels || tr.CancelRest
			for _, rule := range tr.Rerun {
				if p.reruns == nil {
					p.reruns = make(map[spec.FunctionName][]expectation)
				}
				p.reruns[rule.Source] = append(p.reruns[rule.Source], expectation{bucket: name, trigger: tr, rule: rule})
			}
			if tr.Primitive == spec.DynamicGroup && len(tr.Until.Functions) > 0 {
				p.stages = append(p.stages, stage{bucket: name, trigger: tr})
			}
		}
	}
	slices.SortFunc(p.stages, func(a, b stage) int { return strings.Compare(string(a.bucket), string(b.bucket)) })
	r.plans[planName{app, have}] = p
	return p, true
}

// deployed returns the newest version of an app.
func (r *reign) deployed(app spec.AppName) (*plan, error) {
	p, ok := r.newest[app]
	if ok && r.born[app] == r.leader.cfg.Apps.Incarnation(app) {
		return p, nil
	}
	if _, _, deployed := r.leader.cfg.Apps.App(app, 0); deployed { // what it would do belongs to an app that is gone
		return nil, errNotTakenOver(app, r.leader.cfg.Shard)
	}
	return nil, spec.NoApp(app, r.leader.cfg.Apps.Names())
}

func errNotTakenOver(app spec.AppName, id spec.ShardID) error {
	return spec.Errorf(spec.CodeUnavailable, "app %q has been deployed just now: shard %d takes it over in a moment", app, id)
}
