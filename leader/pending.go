package leader

import (
	"github.com/pheromone-run/pheromone/spec"
)

// functionName names a function of an app.
type functionName struct {
	app      spec.AppName
	function spec.FunctionName
}

// countPending counts an invocation that becomes pending (1) or has ended (-1).
func (r *reign) countPending(of functionName, by int) {
	bump(r.pending, of.app, by)
	bump(r.pendingOf, of, by)
	r.pendingN.Add(int64(by))
}

// forgetPending takes all of an app out of what is pending.
func (r *reign) forgetPending(app spec.AppName) {
	r.pendingN.Add(-int64(r.pending[app]))
	delete(r.pending, app)
	for f := range r.pendingOf {
		if f.app == app {
			delete(r.pendingOf, f)
		}
	}
}

func bump[K comparable](m map[K]int, key K, by int) {
	if m[key] += by; m[key] == 0 {
		delete(m, key)
	}
}

// overloaded tells why a put or a delete from outside can't be taken just now: too
// much is pending of the app, or of a function that the bucket's triggers fire. What functions put
// is always taken: a workflow that has begun can end.
func (t *tx) overloaded(app *spec.App, bucket spec.BucketName, on spec.On) error {
	if limit := app.Limits.MaxPending; limit > 0 && t.pending[app.Name] >= limit {
		return spec.Errorf(spec.CodeOverloaded, "app %q has %d invocations pending on shard %d, which is its limit (limits.max_pending)", app.Name, limit, t.shard())
	}
	b, ok := app.Bucket(bucket)
	if !ok {
		return nil
	}
	for _, tr := range b.Triggers {
		if (tr.On == spec.OnDelete) != (on == spec.OnDelete) {
			continue
		}
		for _, name := range tr.Target {
			f := app.Functions[name]
			if f == nil || f.MaxPending == 0 {
				continue
			}
			if n := t.pendingOf[functionName{app.Name, name}]; n >= f.MaxPending {
				return spec.Errorf(spec.CodeOverloaded, "function %q of app %q has %d invocations pending on shard %d, and its limit is %d (functions.%s.max_pending)",
					name, app.Name, n, t.shard(), f.MaxPending, name)
			}
		}
	}
	return nil
}
