package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// fake is a node in memory: app "shop" with the bucket "orders" and the function
// "bill". It records what it was asked; the hooks, where set, go first.
type fake struct {
	mu        sync.Mutex
	revision  spec.Revision
	objects   map[string]api.Object
	data      map[string][]byte
	puts      []api.Put
	invokes   []api.Invoke
	calls     []string
	artifacts map[string]bool

	onGet    func(context.Context, api.Get) (api.Object, error)
	onPut    func(context.Context, api.Put) (wire.PutResult, error)
	onApply  func(manifest []byte, o api.ApplyOptions) (wire.ApplyResult, error)
	onResult func(ctx context.Context, wait time.Duration, untilOutput bool) (wire.Result, error)
	onWatch  func(context.Context, api.Watch, func(wire.WatchEvent) error) error
	onLogs   func(ctx context.Context, function spec.FunctionName, tail int, follow bool, emit func(wire.LogLine) error) error
	ready    error
}

const session = spec.SessionID("s-1")

func newFake() *fake {
	return &fake{objects: map[string]api.Object{}, data: map[string][]byte{}, artifacts: map[string]bool{}}
}

func (f *fake) record(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *fake) recorded() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fake) lastPut() api.Put {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.puts) == 0 {
		return api.Put{}
	}
	return f.puts[len(f.puts)-1]
}

func known(app spec.AppName) error {
	if app != "shop" {
		return spec.Errorf(spec.CodeNotFound, "no app %q", app).WithField("app")
	}
	return nil
}

func knownBucket(app spec.AppName, bucket spec.BucketName) error {
	if err := known(app); err != nil {
		return err
	}
	if bucket != "orders" && bucket != "@bill" && bucket != "@" {
		return spec.Errorf(spec.CodeNotFound, "app %q has no bucket %q", app, bucket).WithField("bucket")
	}
	return nil
}

func (f *fake) Apply(_ context.Context, name spec.AppName, manifest []byte, o api.ApplyOptions) (wire.ApplyResult, error) {
	f.record("apply " + string(manifest))
	if f.onApply != nil {
		return f.onApply(manifest, o)
	}
	return wire.ApplyResult{App: name, Version: 1, DryRun: o.DryRun}, nil
}

func (f *fake) ListApps(context.Context) ([]wire.App, error) {
	return []wire.App{{Name: "shop", Version: 1}}, nil
}

func (f *fake) GetApp(_ context.Context, app spec.AppName, version uint64) (wire.App, error) {
	return wire.App{Name: app, Version: max(version, 1)}, known(app)
}

func (f *fake) AppVersions(_ context.Context, app spec.AppName) ([]wire.App, error) {
	return nil, known(app)
}

func (f *fake) Rollback(_ context.Context, app spec.AppName, version uint64, key string) (wire.ApplyResult, error) {
	f.record("roll back under " + key)
	return wire.ApplyResult{App: app, Version: version}, known(app)
}

func (f *fake) DeleteApp(_ context.Context, app spec.AppName) error {
	f.record("delete app " + string(app))
	return known(app)
}

func (f *fake) PutArtifact(_ context.Context, app spec.AppName, sum string, body io.Reader) (bool, error) {
	if err := known(app); err != nil {
		return false, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return false, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return false, spec.Errorf(spec.CodeHashMismatch, "the content's SHA-256 is %s", got)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	existed := f.artifacts[sum]
	f.artifacts[sum] = true
	return existed, nil
}

func (f *fake) HasArtifact(_ context.Context, app spec.AppName, sum string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.artifacts[sum], known(app)
}

func place(session spec.SessionID, bucket spec.BucketName, key spec.Key) string {
	return string(session) + "\x00" + string(bucket) + "\x00" + string(key)
}

func (f *fake) Put(ctx context.Context, p api.Put) (wire.PutResult, error) {
	if f.onPut != nil {
		return f.onPut(ctx, p)
	}
	if err := knownBucket(p.App, p.Bucket); err != nil {
		return wire.PutResult{}, err
	}
	data, err := io.ReadAll(p.Body)
	if err != nil {
		return wire.PutResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := place(p.Session, p.Bucket, p.Key)
	there, exists := f.objects[at]
	if p.IfRevision != nil && there.Revision != *p.IfRevision || p.IfExists && !exists {
		return wire.PutResult{}, spec.Errorf(spec.CodePrecondition, "the object has revision %d", there.Revision)
	}
	f.revision++
	f.objects[at] = api.Object{Object: wire.Object{
		Bucket: p.Bucket, Key: p.Key, Session: p.Session, Revision: f.revision, Size: int64(len(data)),
		ContentType: p.ContentType, Meta: p.Meta, CreatedAt: time.Unix(1, 0),
	}}
	f.data[at] = data
	p.Body = nil
	f.puts = append(f.puts, p)
	return wire.PutResult{Bucket: p.Bucket, Key: p.Key, Revision: f.revision, Session: session}, nil
}

func (f *fake) Get(ctx context.Context, g api.Get) (api.Object, error) {
	if f.onGet != nil {
		return f.onGet(ctx, g)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := place(g.Session, g.Bucket, g.Key)
	o, ok := f.objects[at]
	if !ok {
		return api.Object{}, spec.Errorf(spec.CodeNotFound, "no object %q in bucket %q", g.Key, g.Bucket)
	}
	if !g.HeadOnly {
		o.Body = io.NopCloser(bytes.NewReader(f.data[at]))
	}
	return o, nil
}

func (f *fake) Delete(_ context.Context, d api.Delete) (wire.PutResult, error) {
	f.record("delete " + string(d.Key))
	return wire.PutResult{Bucket: d.Bucket, Key: d.Key, Revision: 9}, knownBucket(d.App, d.Bucket)
}

func (f *fake) List(_ context.Context, l api.List) (wire.ObjectList, error) {
	if err := knownBucket(l.App, l.Bucket); err != nil {
		return wire.ObjectList{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var page wire.ObjectList
	for _, o := range f.objects {
		if o.Session == l.Session && o.Bucket == l.Bucket && strings.HasPrefix(string(o.Key), l.Prefix) && string(o.Key) > l.After {
			page.Items = append(page.Items, o.Object)
		}
	}
	sort.Slice(page.Items, func(i, j int) bool { return page.Items[i].Key < page.Items[j].Key })
	if len(page.Items) > l.Limit {
		page.Items = page.Items[:l.Limit]
		page.Next = string(page.Items[l.Limit-1].Key)
	}
	return page, nil
}

func (f *fake) Watch(ctx context.Context, w api.Watch, emit func(wire.WatchEvent) error) error {
	if f.onWatch != nil {
		return f.onWatch(ctx, w, emit)
	}
	if err := knownBucket(w.App, w.Bucket); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) Invoke(_ context.Context, i api.Invoke) (wire.PutResult, error) {
	if err := known(i.App); err != nil {
		return wire.PutResult{}, err
	}
	if i.Function != "bill" {
		return wire.PutResult{}, spec.Errorf(spec.CodeNotFound, "app %q has no function %q", i.App, i.Function).WithField("function")
	}
	if _, err := io.ReadAll(i.Body); err != nil {
		return wire.PutResult{}, err
	}
	i.Body = nil
	f.mu.Lock()
	defer f.mu.Unlock()
	f.invokes = append(f.invokes, i)
	return wire.PutResult{Bucket: "@bill", Key: "k", Revision: 1, Session: session}, nil
}

func (f *fake) knownSession(app spec.AppName, s spec.SessionID) error {
	if err := known(app); err != nil {
		return err
	}
	if s != session {
		return spec.Errorf(spec.CodeNotFound, "app %q has no session %q", app, s).WithField("session")
	}
	return nil
}

func (f *fake) ListSessions(_ context.Context, l api.ListSessions) (wire.SessionList, error) {
	return wire.SessionList{}, known(l.App)
}

func (f *fake) GetSession(_ context.Context, app spec.AppName, s spec.SessionID) (wire.Session, error) {
	return wire.Session{Session: s, App: app, Status: wire.SessionRunning}, f.knownSession(app, s)
}

func (f *fake) Result(ctx context.Context, app spec.AppName, s spec.SessionID, wait time.Duration, untilOutput bool) (wire.Result, error) {
	if err := f.knownSession(app, s); err != nil {
		return wire.Result{}, err
	}
	if f.onResult != nil {
		return f.onResult(ctx, wait, untilOutput)
	}
	return wire.Result{Session: s, Status: wire.SessionRunning}, nil
}

func (f *fake) History(_ context.Context, app spec.AppName, s spec.SessionID, _ string, _ int) (wire.History, error) {
	return wire.History{Session: wire.Session{Session: s}}, f.knownSession(app, s)
}

func (f *fake) Cancel(_ context.Context, app spec.AppName, s spec.SessionID) (wire.Session, error) {
	f.record("cancel " + string(s))
	return wire.Session{Session: s, Status: wire.SessionCancelled}, f.knownSession(app, s)
}

func (f *fake) Rerun(_ context.Context, app spec.AppName, s spec.SessionID, from string) (wire.PutResult, error) {
	f.record("rerun " + from)
	return wire.PutResult{Session: "s-2"}, f.knownSession(app, s)
}

func (f *fake) Purge(_ context.Context, app spec.AppName, s spec.SessionID) error {
	f.record("purge " + string(s))
	return f.knownSession(app, s)
}

func (f *fake) Logs(ctx context.Context, app spec.AppName, function spec.FunctionName, tail int, follow bool, emit func(wire.LogLine) error) error {
	if f.onLogs != nil {
		return f.onLogs(ctx, function, tail, follow, emit)
	}
	return known(app)
}

func (f *fake) Ready() error { return f.ready }

func (f *fake) ShardHash(_ context.Context, id spec.ShardID) (wire.ShardHash, error) {
	if id != 1 {
		return wire.ShardHash{}, spec.Errorf(spec.CodeNotFound, "there is no shard %d", id)
	}
	return wire.ShardHash{Shard: 1, Node: "n1", Replica: 1, Applied: 7, Hash: "00ff", Blobs: "11ee"}, nil
}

func (f *fake) Cluster(context.Context) (wire.Cluster, error) {
	return wire.Cluster{Node: "n1", Version: "v0", Ready: true, Nodes: []wire.Node{{Name: "n1", Live: true}}, Shards: []wire.Shard{{Shard: 1, Leader: "n1"}}}, nil
}

func (f *fake) InitCluster(_ context.Context, voters []string) error {
	f.record("init " + strings.Join(voters, ","))
	return nil
}

func (f *fake) JoinCluster(_ context.Context, address string) error {
	f.record("join " + address)
	return nil
}

func (f *fake) DrainNode(_ context.Context, node string, drain bool) error {
	f.record(fmt.Sprintf("drain %s %v", node, drain))
	return nil
}

func (f *fake) RemoveNode(_ context.Context, node string, force bool) error {
	f.record(fmt.Sprintf("remove %s %v", node, force))
	return nil
}

func (f *fake) Rebalance(context.Context) error {
	f.record("rebalance")
	return nil
}
