package api

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func getCluster(r *request) error {
	c, err := r.s.backend.Cluster(r.ctx)
	if err != nil {
		return err
	}
	c.Nodes, c.Shards = orEmpty(c.Nodes), orEmpty(c.Shards)
	return r.json(http.StatusOK, c)
}

func getShards(r *request) error {
	c, err := r.s.backend.Cluster(r.ctx)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, wire.ShardList{Items: orEmpty(c.Shards)})
}

func getNodes(r *request) error {
	c, err := r.s.backend.Cluster(r.ctx)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, wire.NodeList{Items: orEmpty(c.Nodes)})
}

// settings reads a small JSON body; none is an empty object.
func (r *request) settings(into any) error {
	text, err := r.body.all()
	if err != nil || len(text) == 0 {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return spec.Errorf(spec.CodeInvalid, "the body can't be read: %w", err)
	}
	if d.More() {
		return spec.Errorf(spec.CodeInvalid, "the body goes on after its JSON object")
	}
	return nil
}

func initCluster(r *request) error {
	var body wire.InitCluster
	if err := r.settings(&body); err != nil {
		return err
	}
	if err := r.s.backend.InitCluster(r.ctx, body.Voters); err != nil {
		return err
	}
	return getCluster(r)
}

func joinCluster(r *request) error {
	var body wire.JoinCluster
	if err := r.settings(&body); err != nil {
		return err
	}
	if body.Address == "" {
		return spec.Errorf(spec.CodeInvalid, "address is missing: name host:port of a node of the cluster, as in its --peer-listen").WithField("address")
	}
	if err := r.s.backend.JoinCluster(r.ctx, body.Address); err != nil {
		return err
	}
	return getCluster(r)
}

func drainNode(r *request) error   { return r.drain(true) }
func undrainNode(r *request) error { return r.drain(false) }

func (r *request) drain(drain bool) error {
	if err := r.s.backend.DrainNode(r.ctx, r.node, drain); err != nil {
		return err
	}
	return getCluster(r)
}

func removeNode(r *request) error {
	force, err := r.query.flag("force")
	if err != nil {
		return err
	}
	if err := r.s.backend.RemoveNode(r.ctx, r.node, force); err != nil {
		return err
	}
	r.fh.SetStatusCode(http.StatusNoContent)
	return nil
}

func rebalance(r *request) error {
	if err := r.s.backend.Rebalance(r.ctx); err != nil {
		return err
	}
	return getCluster(r)
}
