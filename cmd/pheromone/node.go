package main

import (
	"context"

	"github.com/pheromone-run/pheromone/exec/wasm"
	"github.com/pheromone-run/pheromone/internal/cli"
	"github.com/pheromone-run/pheromone/node"
)

func startNode(ctx context.Context, c cli.NodeConfig) (cli.Node, error) {
	n, err := node.Start(ctx, node.Config{
		// The very program that runs, also when its file has been replaced since.
		ModuleHost: []string{"/proc/self/exe", wasm.HostArg},
		Name:       c.Name, DataDir: c.DataDir, Listen: c.Listen, Insecure: c.Insecure,
		Shards: c.Shards, ReserveBytes: c.ReserveBytes, InputBytes: c.InputBytes, SharedBytes: c.SharedBytes, Version: c.Version, Now: c.Now, Log: c.Log, Alone: c.Alone,
		PeerListen: c.PeerListen, PeerAdvertise: c.PeerAdvertise, Join: c.Join, Expect: c.Expect, JoinToken: c.JoinToken,
		Replicas: c.Replicas, RaftRTT: c.RaftRTT, RaftElection: c.RaftElection, RebuildAfter: c.RebuildAfter, DiskTimeout: c.DiskTimeout,
	})
	if err != nil {
		return nil, err // a nil *node.Node must not become a Node
	}
	return n, nil
}
