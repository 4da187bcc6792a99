package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// serveFlags is the configuration of a node; each setting is a flag, an
// environment variable and a key of the file, by the same name.
type serveFlags struct {
	name            string
	data            string
	listen          string
	peerListen      string
	peerAdvertise   string
	bootstrapExpect int
	join            []string
	joinToken       string
	shards          int
	replicas        int
	raftRTT         durationFlag
	raftElection    int
	rebuildAfter    durationFlag
	diskTimeout     durationFlag
	diskReserve     sizeFlag
	inputMemory     sizeFlag
	sharedMemory    sharedFlag
	insecure        bool
	logLevel        string
	logFormat       string
}

func (c *cli) serveCommand() *cobra.Command {
	var f serveFlags
	var file string
	cmd := &cobra.Command{
		Use:   "serve [--config FILE]",
		Short: "Run a node for production",
		Long: "Run a node. Every setting may be given as a flag, as an environment variable (--log-level is\n" +
			"PHEROMONE_LOG_LEVEL) or as a key of the YAML file (log-level: info); the first of these that is there\n" +
			"counts.\n\n" +
			"A node with --join is one of a cluster: those that are started with the same --bootstrap-expect and\n" +
			"--join found it once they are all there. A node whose data is a cluster's comes back to it.",
		Example: "  pheromone serve --data /var/lib/pheromone\n" +
			"  pheromone serve --config /etc/pheromone/node.yaml\n" +
			"  pheromone serve --name n1 --data /var/lib/pheromone --peer-listen 10.0.0.1:7170 --bootstrap-expect 3 \\\n" +
			"    --join 10.0.0.1:7170,10.0.0.2:7170,10.0.0.3:7170 --join-token SECRET",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings := settingFlags(cmd.Flags())
			if file == "" {
				file = c.Getenv("PHEROMONE_CONFIG")
			}
			if err := c.fillSettings(settings, file); err != nil {
				return err
			}
			return c.serve(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "YAML file with settings")
	flags.StringVar(&f.name, "name", "n1", "the node's name")
	flags.StringVar(&f.data, "data", "", "folder that keeps the data (required)")
	flags.StringVar(&f.listen, "listen", defaultListen, "address of the API")
	flags.StringVar(&f.peerListen, "peer-listen", "", "where a node of a cluster listens for the others (default: that of its last start, at first 127.0.0.1:7170)")
	flags.StringVar(&f.peerAdvertise, "peer-advertise", "", "host:port that other nodes reach this one at (default: --peer-listen)")
	flags.IntVar(&f.bootstrapExpect, "bootstrap-expect", 0, "how many nodes found the cluster (0: wait for a cluster, or for `pheromone cluster init`)")
	flags.StringSliceVar(&f.join, "join", nil, "peer addresses of the cluster's nodes; this node's own may be among them")
	flags.StringVar(&f.joinToken, "join-token", "", "secret of the cluster's nodes, the same on all")
	flags.IntVar(&f.shards, "shards", 0, "number of shards of a new data folder or cluster (0: 1, and 8 of a cluster)")
	flags.IntVar(&f.replicas, "replicas", 0, "how many nodes of a new cluster hold each shard (0: 3)")
	flags.Var(&f.raftRTT, "raft-rtt", "tick of a cluster's shards (0: 20ms)")
	flags.IntVar(&f.raftElection, "raft-election", 0, "ticks without a word of the leader after which another is elected (0: 25)")
	flags.Var(&f.rebuildAfter, "rebuild-after", "how long a node is away before others make up for what it holds (0: 5m)")
	f.diskTimeout = durationFlag(10 * time.Second)
	flags.Var(&f.diskTimeout, "disk-timeout", "how long the disk may hang before a node of a cluster ends itself (0: for ever)")
	flags.Var(&f.diskReserve, "disk-reserve", "room on the disk below which puts are refused, as in 1GiB (0: the node's default)")
	flags.Var(&f.inputMemory, "input-memory", "memory for the inputs of all attempts that run, as in 512MiB; what does not fit waits (0: the node's default)")
	flags.Var(&f.sharedMemory, "shared-memory", sharedMemoryUsage)
	flags.BoolVar(&f.insecure, "insecure", false, "listen beyond this machine although nothing is encrypted and nobody is asked who they are")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "", "text or json (default: text on a terminal, else json)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.MarkFlagDirname("data")
	return cmd
}

// settingFlags are the flags of serve itself that are settings of the node.
func settingFlags(flags *pflag.FlagSet) []*pflag.Flag {
	var settings []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		switch f.Name {
		case "config", "help", "server", "profile", "output", "no-headers", "timeout":
		default:
			settings = append(settings, f)
		}
	})
	return settings
}

func (f serveFlags) validate() error {
	switch {
	case f.data == "":
		return usage("no data folder: set --data, PHEROMONE_DATA or data: in the file")
	case f.name == "":
		return usage("--name must not be empty")
	case f.shards < 0:
		return usage("--shards must not be negative")
	case f.bootstrapExpect < 0 || f.replicas < 0 || f.raftElection < 0:
		return usage("--bootstrap-expect, --replicas and --raft-election must not be negative")
	case f.bootstrapExpect > 1 && len(f.join) == 0:
		return usage("--bootstrap-expect %d: the nodes can't find each other", f.bootstrapExpect).
			WithHint("give all of them the same --join with the peer addresses of all of them")
	case !isLoopback(f.listen) && !f.insecure:
		return usage("--listen %s can be reached from other machines, and this version has neither TLS nor tokens: anybody there could run code here", f.listen).
			WithHint("listen on 127.0.0.1 behind a proxy that authenticates, or accept the risk with --insecure")
	}
	if f.logFormat != "" && f.logFormat != "text" && f.logFormat != "json" {
		return usage("--log-format %q: use text or json", f.logFormat)
	}
	_, err := logLevel(f.logLevel)
	return err
}

func (c *cli) serve(ctx context.Context, f serveFlags) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(f.listen); err == nil && port != "0" {
		if err := probe(f.listen); err != nil {
			return err
		}
	}
	data, err := filepath.Abs(f.data)
	if err != nil {
		return usage("--data: %w", err)
	}
	log := c.serverLog(f)
	if f.insecure && !isLoopback(f.listen) {
		log.Warn("listening beyond this machine without TLS and tokens, as --insecure asks", "listen", f.listen)
	}
	if f.diskTimeout == 0 {
		f.diskTimeout = -1
	}
	node, err := c.startNode(ctx, NodeConfig{Name: f.name, DataDir: data, Listen: f.listen, Shards: f.shards,
		ReserveBytes: int64(f.diskReserve), InputBytes: int64(f.inputMemory), SharedBytes: int64(f.sharedMemory), Insecure: f.insecure, Version: programVersion().Version, Log: log,
		PeerListen: f.peerListen, PeerAdvertise: f.peerAdvertise, Join: f.join, Expect: f.bootstrapExpect, JoinToken: f.joinToken,
		Replicas: f.replicas, RaftRTT: time.Duration(f.raftRTT), RaftElection: f.raftElection, RebuildAfter: time.Duration(f.rebuildAfter),
		DiskTimeout: time.Duration(f.diskTimeout)})
	if err != nil {
		return err
	}
	defer func() {
		log.Info("stopping")
		err = errors.Join(err, closeNode(node))
	}()
	waiting, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	ended := make(chan error, 1) // Close ends Wait, so the goroutine ends with this function
	go func() {
		ended <- node.Wait()
		stopWaiting()
	}()
	// A node of a cluster may wait for the others for as long as they take.
	if _, err := c.awaitReady(waiting, node); err != nil {
		select {
		case err := <-ended:
			return stopped(ctx, nodeEnded(err))
		default:
			return stopped(ctx, err)
		}
	}
	log.Info("ready", "url", node.URL(), "data", data, "name", f.name)
	if c.format == formatJSON || c.format == formatJSONL {
		if err := c.writeJSON(readyLine{Ready: true, URL: node.URL(), Data: data, PID: os.Getpid()}, ""); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return stopped(ctx, nodeEnded(err))
	}
}

func (c *cli) serverLog(f serveFlags) *slog.Logger {
	level, _ := logLevel(f.logLevel) // checked before
	options := &slog.HandlerOptions{Level: level}
	if f.logFormat == "text" || f.logFormat == "" && c.StderrTerminal {
		return slog.New(slog.NewTextHandler(c.Stderr, options))
	}
	return slog.New(slog.NewJSONHandler(c.Stderr, options))
}

func logLevel(name string) (slog.Level, error) {
	switch name {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, usage("--log-level %q: use debug, info, warn or error", name)
}

// isLoopback says whether only this machine reaches address. A name other than
// localhost may lead anywhere.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
