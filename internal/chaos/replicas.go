package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// replicas compares what the nodes' replicas of each shard hold, once nothing
// happens any more: asked again until all of a shard have applied the same.
func replicas(ctx context.Context, urls []string, shards []spec.ShardID) (compared int, faults []error) {
	for _, shard := range shards {
		n, err := replicasOf(ctx, urls, shard)
		compared += n
		if err != nil {
			faults = append(faults, err)
		}
	}
	if compared == 0 {
		faults = append(faults, fmt.Errorf("there was no replica to compare"))
	}
	return compared, faults
}

func replicasOf(ctx context.Context, urls []string, shard spec.ShardID) (int, error) {
	for {
		hashes, err := hashesOf(ctx, urls, shard)
		if err == nil {
			var even bool
			if even, err = compare(hashes); even || err != nil {
				return len(hashes), err
			}
			err = fmt.Errorf("they have not applied the same: %+v", hashes)
		}
		select {
		case <-time.After(200 * time.Millisecond): // ask again
		case <-ctx.Done():
			return 0, fmt.Errorf("replicas of shard %d: %w", shard, err)
		}
	}
}

// compare tells whether replicas have come equally far and have all bytes of large
// objects, and how those differ that have.
func compare(hashes []wire.ShardHash) (even bool, err error) {
	even = len(hashes) > 0
	for i, a := range hashes {
		even = even && a.Applied == hashes[0].Applied && a.Lacking == 0
		for _, b := range hashes[:i] {
			switch {
			case a.Applied != b.Applied:
			case a.Hash != b.Hash:
				return false, fmt.Errorf("the replicas of shard %d differ after entry %d: %s on %s, %s on %s", a.Shard, a.Applied, b.Hash, b.Node, a.Hash, a.Node)
			case a.Lacking == 0 && b.Lacking == 0 && a.Blobs != b.Blobs:
				return false, fmt.Errorf("the large objects of shard %d differ after entry %d: %s on %s, %s on %s", a.Shard, a.Applied, b.Blobs, b.Node, a.Blobs, a.Node)
			}
		}
	}
	return even, nil
}

// hashesOf asks every node. One without a replica is left out.
func hashesOf(ctx context.Context, urls []string, shard spec.ShardID) ([]wire.ShardHash, error) {
	var all []wire.ShardHash
	for _, url := range urls {
		var h wire.ShardHash
		status, err := getJSON(ctx, fmt.Sprintf("%s/v1/cluster/shards/%d/hash", url, shard), &h)
		switch {
		case err != nil:
			return nil, err
		case status == http.StatusOK:
			all = append(all, h)
		case status != http.StatusNotFound:
			return nil, fmt.Errorf("%s answers %d", url, status)
		}
	}
	return all, nil
}

// answerBytes bounds what is read of an answer.
const answerBytes = 16 << 20

func getJSON(ctx context.Context, url string, into any) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes))
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp.StatusCode, err
	}
	return resp.StatusCode, json.Unmarshal(body, into)
}
