package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"

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
	bootstrapExpect int
	join            []string
	shards          int
	diskReserve     sizeFlag
	inputMemory     sizeFlag
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
			"counts. This version runs one node.",
		Example: "  pheromone serve --data /var/lib/pheromone\n" +
			"  pheromone serve --config /etc/pheromone/node.yaml",
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
	flags.StringVar(&f.peerListen, "peer-listen", "127.0.0.1:7170", "address for other nodes; nothing listens there while a node is alone")
	flags.IntVar(&f.bootstrapExpect, "bootstrap-expect", 1, "how many nodes form the cluster; this version: 1")
	flags.StringSliceVar(&f.join, "join", nil, "peer addresses of the cluster's nodes; this version: none")
	flags.IntVar(&f.shards, "shards", 0, "number of shards of a new data folder (0: the node's default)")
	flags.Var(&f.diskReserve, "disk-reserve", "room on the disk below which puts are refused, as in 1GiB (0: the node's default)")
	flags.Var(&f.inputMemory, "input-memory", "memory for the inputs of all attempts that run, as in 512MiB; what does not fit waits (0: the node's default)")
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
	case f.bootstrapExpect > 1 || len(f.join) > 0:
		return usage("--bootstrap-expect and --join ask for a cluster of several nodes: this version runs one node").
			WithHint("leave them out, or set --bootstrap-expect 1")
	case f.bootstrapExpect < 1:
		return usage("--bootstrap-expect must be 1")
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
	node, err := c.startNode(ctx, NodeConfig{Name: f.name, DataDir: data, Listen: f.listen, Shards: f.shards,
		ReserveBytes: int64(f.diskReserve), InputBytes: int64(f.inputMemory), Insecure: f.insecure, Version: programVersion().Version, Log: log})
	if err != nil {
		return err
	}
	defer func() {
		log.Info("stopping")
		err = errors.Join(err, closeNode(node))
	}()
	ended := make(chan error, 1) // Close ends Wait, so the goroutine ends with this function
	go func() { ended <- node.Wait() }()
	if _, err := c.awaitReady(ctx, node); err != nil {
		return stopped(ctx, err)
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
