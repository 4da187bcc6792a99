package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcd keeps an invocation under work/FUNCTION/SESSION/… until it has run. The
// worker's one watch on work/ starts a goroutine for each.
type etcd struct {
	server  *embed.Etcd
	client  *clientv3.Client
	clients *waiting
	failed  chan error // of a function; the first is enough
	running sync.WaitGroup
	cancel  context.CancelFunc
}

// startEtcd starts etcd with its defaults, which sync every commit, but with a
// limit for requests that lets 64 MiB through.
func startEtcd(ctx context.Context, dir string) (system, error) {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = filepath.Join(dir, "etcd"), "fatal" // its end is full of errors
	cfg.MaxRequestBytes, cfg.QuotaBackendBytes = 80<<20, 8<<30
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{local}, []url.URL{local}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{local}, []url.URL{local}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		server.Close()
		return nil, errors.New("the server does not get ready")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:          []string{server.Clients[0].Addr().String()},
		MaxCallSendMsgSize: math.MaxInt32, MaxCallRecvMsgSize: math.MaxInt32,
	})
	if err != nil {
		server.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &etcd{server: server, client: client, clients: newWaiting(), failed: make(chan error, 1), cancel: cancel}
	for prefix, each := range map[string]func(context.Context, *clientv3.Event){
		"work/": func(ctx context.Context, ev *clientv3.Event) { e.running.Go(func() { e.work(ctx, ev) }) },
		"done/": func(_ context.Context, ev *clientv3.Event) {
			e.clients.end(strings.TrimPrefix(string(ev.Kv.Key), "done/"), string(ev.Kv.Value))
		},
	} {
		events := client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithFilterDelete(), clientv3.WithCreatedNotify())
		<-events // it watches
		e.running.Go(func() {
			for answer := range events {
				for _, ev := range answer.Events {
					each(ctx, ev)
				}
			}
		})
	}
	return e, nil
}

func (e *etcd) close() error {
	e.cancel()
	e.running.Wait()
	err := e.client.Close()
	e.server.Close()
	return err
}

func (e *etcd) run(ctx context.Context, function string, input []byte) (string, error) {
	session, result, forget := e.clients.session()
	defer forget()
	if function == chainFunction {
		function = "0"
	}
	if _, err := e.client.Put(ctx, "work/"+function+"/"+session, string(input)); err != nil {
		return "", err
	}
	select {
	case out := <-result:
		return out, nil
	case err := <-e.failed:
		return "", err
	case <-ctx.Done():
		return "", fmt.Errorf("session %s of %s has no result: %w", session, function, ctx.Err())
	}
}

// work runs a function on its input and moves its session on.
func (e *etcd) work(ctx context.Context, ev *clientv3.Event) {
	key := string(ev.Kv.Key)
	parts := strings.Split(key, "/") // work, function, session, and which of several
	function, session := parts[1], parts[2]
	var err error
	switch function {
	case fanFunction:
		var puts []clientv3.Op
		for i := range fanWidth {
			puts = append(puts, clientv3.OpPut("work/noop/"+session+"/"+strconv.Itoa(i), string(ev.Kv.Value)))
		}
		_, err = e.commit(ctx, ev, puts...)
	case "noop":
		err = e.join(ctx, ev, session, parts[3])
	case passFunction:
		var size int
		if size, err = strconv.Atoi(string(ev.Kv.Value)); err == nil {
			_, err = e.commit(ctx, ev, clientv3.OpPut("work/take/"+session, string(madeBytes(size))))
		}
	case "take":
		_, err = e.commit(ctx, ev, clientv3.OpPut("done/"+session, strconv.Itoa(len(ev.Kv.Value))))
	default:
		var i int
		if i, err = strconv.Atoi(function); err == nil {
			next := "work/" + strconv.Itoa(i+1) + "/" + session
			if i == chainLength-1 {
				next = "done/" + session
			}
			_, err = e.commit(ctx, ev, clientv3.OpPut(next, string(ev.Kv.Value)))
		}
	}
	if err != nil && ctx.Err() == nil {
		select {
		case e.failed <- fmt.Errorf("%s: %w", key, err):
		default: // somebody has been told
		}
	}
}

// commit deletes the invocation and writes what follows from it, unless another
// worker has done so.
func (e *etcd) commit(ctx context.Context, ev *clientv3.Event, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	key := string(ev.Kv.Key)
	return e.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", ev.Kv.ModRevision)).
		Then(append([]clientv3.Op{clientv3.OpDelete(key)}, then...)...).Commit()
}

// join puts what a no-op made; the transaction that makes the set whole sees it,
// and ends the session.
func (e *etcd) join(ctx context.Context, ev *clientv3.Event, session, which string) error {
	set := "joined/" + session + "/"
	answer, err := e.commit(ctx, ev, clientv3.OpPut(set+which, string(ev.Kv.Value)), clientv3.OpGet(set, clientv3.WithPrefix()))
	if err != nil || !answer.Succeeded {
		return err
	}
	all := answer.Responses[2].GetResponseRange().Kvs
	if len(all) < fanWidth {
		return nil
	}
	_, err = e.client.Txn(ctx).Then(clientv3.OpDelete(set, clientv3.WithPrefix()), clientv3.OpPut("done/"+session, strconv.Itoa(len(all)))).Commit()
	return err
}

func (e *etcd) put(ctx context.Context, key string, value []byte) error {
	_, err := e.client.Put(ctx, "kv/"+key, string(value))
	return err
}

func (e *etcd) get(ctx context.Context, key string) error {
	_, err := e.client.Get(ctx, "kv/"+key) // linearizable, as is the default
	return err
}

func (e *etcd) watch(ctx context.Context, key string) (<-chan struct{}, error) {
	events := e.client.Watch(ctx, "kv/"+key, clientv3.WithCreatedNotify())
	if first, ok := <-events; !ok || first.Err() != nil {
		return nil, errors.Join(errors.New("the watch does not begin"), first.Err())
	}
	seen := make(chan struct{}, 1) // one put at a time
	e.running.Go(func() {
		for answer := range events {
			for range answer.Events {
				seen <- struct{}{}
			}
		}
	})
	return seen, nil
}
