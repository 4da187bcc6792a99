package api

import "net/http"

// getShardHash is for whoever compares replicas: each node answers for its own.
func getShardHash(r *request) error {
	h, err := r.s.backend.ShardHash(r.ctx, r.shard)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, h)
}
