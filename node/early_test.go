package node_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

func TestEachNodeReadsWhatAnEphemeralBucketOfAnOlderVersionHasAnswered(t *testing.T) {
	c := newCluster(t, 3, 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	apply := func(durability string) {
		t.Helper()
		manifest := "apiVersion: pheromone/v1\napp: app\nbuckets: {other: {durability: ephemeral}, notes: {durability: " + durability + "}}\n"
		if _, err := c.at(0).Apply(ctx, "app", []byte(manifest), client.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put := func(at int, key spec.Key, o client.PutOptions) {
		t.Helper()
		if _, err := c.at(at).PutSession(ctx, "app", "of-the-first", "notes", key, strings.NewReader("v"), o); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	apply("ephemeral")
	put(0, "first", client.PutOptions{DeliverAfter: time.Hour}) // so that the session does not end
	apply("durable")
	for i := range 12 {
		key := spec.Key(fmt.Sprint("k", i))
		put(i%2, key, client.PutOptions{})
		at := i % 3 // the leader, in turn with those that it must not have told before
		list, err := c.at(at).ListPage(ctx, "app", "notes", client.ListOptions{Session: "of-the-first"})
		if err != nil || len(list.Items) != i+2 {
			t.Errorf("right after the put of %s node %d lists %d objects of %d, %v", key, at, len(list.Items), i+2, err)
		}
	}
}

// Reads of an ephemeral bucket go to the leader, and a large object comes in a stream
// that goes on after the question is answered.
func TestEachNodeReadsLargeObjectsOfAnEphemeralBucketToTheirEnd(t *testing.T) {
	c := newCluster(t, 3, 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	manifest := "apiVersion: pheromone/v1\napp: app\nbuckets: {notes: {durability: ephemeral}}\n"
	if _, err := c.at(0).Apply(ctx, "app", []byte(manifest), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if _, err := c.at(0).Put(ctx, "app", "notes", "large", bytes.NewReader(data), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for at, m := range c.members {
		asked, err := client.New(m.node.URL(), client.WithoutDiscovery())
		if err != nil {
			t.Fatal(err)
		}
		defer asked.Close()
		o, err := asked.Get(ctx, "app", "notes", "large", client.GetOptions{})
		if err != nil || !bytes.Equal(o.Data, data) {
			t.Errorf("node %d: %d bytes of %d, %v", at, len(o.Data), len(data), err)
		}
	}
}
