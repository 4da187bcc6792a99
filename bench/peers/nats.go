package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsSystem keeps invocations as messages work.FUNCTION.SESSION of a work queue
// until they are acknowledged, and results as messages done.SESSION.
type natsSystem struct {
	server  *server.Server
	conn    *nats.Conn
	js      jetstream.JetStream
	kv      jetstream.KeyValue
	objects jetstream.ObjectStore
	clients *waiting
	failed  chan error // of a function; the first is enough
	stop    []jetstream.ConsumeContext
	running sync.WaitGroup

	mu     sync.Mutex
	joined map[string][]jetstream.Msg // by session; not acknowledged until all are there
}

// maxPayload lets 1 MiB through as one message; 64 MiB go through the object store.
const maxPayload = 2 << 20

func startNATS(ctx context.Context, dir string, sync bool) (system, error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: dir, SyncAlways: sync, MaxPayload: maxPayload,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		s.Shutdown()
		return nil, errors.New("the server does not get ready")
	}
	n := &natsSystem{server: s, clients: newWaiting(), failed: make(chan error, 1), joined: map[string][]jetstream.Msg{}}
	if err := n.connect(ctx); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *natsSystem) connect(ctx context.Context) (err error) {
	if n.conn, err = nats.Connect(n.server.ClientURL()); err != nil {
		return err
	}
	if n.js, err = jetstream.New(n.conn); err != nil {
		return err
	}
	if n.kv, err = n.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "kv", Storage: jetstream.FileStorage}); err != nil {
		return err
	}
	if n.objects, err = n.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "large", Storage: jetstream.FileStorage}); err != nil {
		return err
	}
	for _, s := range []struct {
		name, subject string
		keeps         jetstream.RetentionPolicy
	}{{"WORK", "work.>", jetstream.WorkQueuePolicy}, {"DONE", "done.>", jetstream.LimitsPolicy}} {
		if _, err := n.js.CreateStream(ctx, jetstream.StreamConfig{Name: s.name, Subjects: []string{s.subject}, Retention: s.keeps, Storage: jetstream.FileStorage}); err != nil {
			return err
		}
	}
	work, err := n.js.CreateConsumer(ctx, "WORK", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000})
	if err != nil {
		return err
	}
	if err := n.consume(work, func(m jetstream.Msg) { n.running.Go(func() { n.work(ctx, m) }) }); err != nil {
		return err
	}
	done, err := n.js.OrderedConsumer(ctx, "DONE", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	return n.consume(done, func(m jetstream.Msg) {
		n.clients.end(strings.TrimPrefix(m.Subject(), "done."), string(m.Data()))
	})
}

func (n *natsSystem) consume(c jetstream.Consumer, each jetstream.MessageHandler) error {
	stop, err := c.Consume(each)
	if err == nil {
		n.stop = append(n.stop, stop)
	}
	return err
}

func (n *natsSystem) close() error {
	for _, s := range n.stop {
		s.Stop()
	}
	n.running.Wait()
	if n.conn != nil {
		n.conn.Close()
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
	return nil
}

func (n *natsSystem) run(ctx context.Context, function string, input []byte) (string, error) {
	session, result, forget := n.clients.session()
	defer forget()
	if function == chainFunction {
		function = "0"
	}
	if err := n.publish(ctx, "work."+function+"."+session, input); err != nil {
		return "", err
	}
	select {
	case out := <-result:
		return out, nil
	case err := <-n.failed:
		return "", err
	case <-ctx.Done():
		return "", fmt.Errorf("session %s of %s has no result: %w", session, function, ctx.Err())
	}
}

// publish waits until the message is stored. Its id lets the server drop a second
// one, of a function that ran again.
func (n *natsSystem) publish(ctx context.Context, subject string, data []byte) error {
	_, err := n.js.Publish(ctx, subject, data, jetstream.WithMsgID(subject))
	return err
}

// work runs a function on its input, moves its session on, and then takes the
// input off the queue.
func (n *natsSystem) work(ctx context.Context, m jetstream.Msg) {
	parts := strings.Split(m.Subject(), ".") // work, function, session, and which of several
	function, session := parts[1], parts[2]
	var err error
	switch function {
	case fanFunction:
		err = n.fan(ctx, session, m.Data())
	case "noop":
		err = n.publish(ctx, "work.joined."+session+"."+parts[3], m.Data())
	case "joined":
		err = n.join(ctx, session, m)
	case passFunction:
		err = n.pass(ctx, session, string(m.Data()))
	case "take":
		err = n.publish(ctx, "done."+session, []byte(strconv.Itoa(len(m.Data()))))
	case "fetch":
		err = n.fetch(ctx, session)
	default:
		var i int
		if i, err = strconv.Atoi(function); err == nil {
			next := "work." + strconv.Itoa(i+1) + "." + session
			if i == chainLength-1 {
				next = "done." + session
			}
			err = n.publish(ctx, next, m.Data())
		}
	}
	if err == nil && function != "joined" {
		err = m.Ack()
	}
	if err != nil {
		select {
		case n.failed <- fmt.Errorf("%s: %w", m.Subject(), err):
		default: // somebody has been told
		}
	}
}

// fan publishes all at once and waits for all to be stored.
func (n *natsSystem) fan(ctx context.Context, session string, data []byte) error {
	var stored []jetstream.PubAckFuture
	for i := range fanWidth {
		subject := "work.noop." + session + "." + strconv.Itoa(i)
		f, err := n.js.PublishAsync(subject, data, jetstream.WithMsgID(subject))
		if err != nil {
			return err
		}
		stored = append(stored, f)
	}
	for _, f := range stored {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// join holds what the no-ops made, not acknowledged so that a restart would bring
// it again, until all of it is there.
func (n *natsSystem) join(ctx context.Context, session string, m jetstream.Msg) error {
	n.mu.Lock()
	all := append(n.joined[session], m)
	n.joined[session] = all
	if len(all) == fanWidth {
		delete(n.joined, session)
	}
	n.mu.Unlock()
	if len(all) < fanWidth {
		return nil
	}
	err := n.publish(ctx, "done."+session, []byte(strconv.Itoa(len(all))))
	for _, m := range all {
		err = errors.Join(err, m.Ack())
	}
	return err
}

func (n *natsSystem) pass(ctx context.Context, session, input string) error {
	size, err := strconv.Atoi(input)
	if err != nil {
		return err
	}
	if size < maxPayload {
		return n.publish(ctx, "work.take."+session, madeBytes(size))
	}
	if _, err := n.objects.PutBytes(ctx, session, madeBytes(size)); err != nil {
		return err
	}
	return n.publish(ctx, "work.fetch."+session, nil)
}

func (n *natsSystem) fetch(ctx context.Context, session string) error {
	data, err := n.objects.GetBytes(ctx, session)
	if err != nil {
		return err
	}
	if err := n.publish(ctx, "done."+session, []byte(strconv.Itoa(len(data)))); err != nil {
		return err
	}
	return n.objects.Delete(ctx, session)
}

func (n *natsSystem) put(ctx context.Context, key string, value []byte) error {
	_, err := n.kv.Put(ctx, key, value)
	return err
}

func (n *natsSystem) get(ctx context.Context, key string) error {
	_, err := n.kv.Get(ctx, key)
	return err
}

func (n *natsSystem) watch(ctx context.Context, key string) (<-chan struct{}, error) {
	w, err := n.kv.Watch(ctx, key, jetstream.UpdatesOnly())
	if err != nil {
		return nil, err
	}
	seen := make(chan struct{}, 1) // one put at a time
	n.running.Go(func() {
		for {
			select {
			case entry, ok := <-w.Updates():
				if !ok {
					return
				}
				if entry != nil {
					seen <- struct{}{}
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return seen, nil
}
