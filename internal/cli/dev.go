package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

const (
	defaultListen = "127.0.0.1:7070"
	readyTime     = time.Minute // from a node's start to its first request
)

type devFlags struct {
	data       string
	listen     string
	randomPort bool
	shards     int
	shared     sharedFlag
	logLevel   string
}

func (c *cli) devCommand() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev [MANIFEST]",
		Short: "Run a whole node for development, and an app that is redeployed as you edit it",
		Long: "Run a whole node in this process, on this machine only. With a manifest it deploys the app, prints what\n" +
			"its functions print, watches the manifest's folder, and deploys again when something changes.",
		Example: "  pheromone dev hello/app.yaml\n" +
			"  pheromone dev --data ./state --random-port -o json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: manifestFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			manifest := ""
			if len(args) == 1 {
				manifest = args[0]
			}
			return c.dev(cmd.Context(), manifest, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", "", "folder that keeps the data (default: a temporary one, removed at exit)")
	flags.StringVar(&f.listen, "listen", defaultListen, "address to listen on; this machine only")
	flags.BoolVar(&f.randomPort, "random-port", false, "listen on a free port")
	flags.IntVar(&f.shards, "shards", 0, "number of shards of a new data folder (default 1)")
	flags.Var(&f.shared, "shared-memory", sharedMemoryUsage)
	flags.StringVar(&f.logLevel, "log-level", "error", "what the node logs: debug, info, warn or error")
	cmd.MarkFlagsMutuallyExclusive("listen", "random-port")
	return cmd
}

// readyLine is what dev and serve print on standard output with -o json, once.
type readyLine struct {
	Ready   bool         `json:"ready"`
	URL     string       `json:"url"`
	Data    string       `json:"data"`
	PID     int          `json:"pid"`
	App     spec.AppName `json:"app,omitempty"`
	Version uint64       `json:"version,omitempty"`
	Error   *wire.Error  `json:"error,omitempty"` // the node is ready, its app was refused
}

func (c *cli) dev(ctx context.Context, manifestPath string, f devFlags) (err error) {
	level, err := logLevel(f.logLevel)
	if err != nil {
		return err
	}
	if f.shards < 0 {
		return usage("--shards must not be negative")
	}
	if manifestPath == "-" {
		return usage("dev watches the manifest's folder: give the manifest as a file, not as -")
	}
	if manifestPath != "" {
		if _, err := c.openManifest(manifestPath); err != nil {
			return err
		}
	}
	listen, err := devListen(f)
	if err != nil {
		return err
	}
	data, temporary, err := dataFolder(f.data)
	if err != nil {
		return err
	}
	if temporary {
		defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	}
	node, err := c.startNode(ctx, NodeConfig{Name: "dev", DataDir: data, Listen: listen, Shards: f.shards, SharedBytes: int64(f.shared), Alone: true,
		Version: programVersion().Version, Log: slog.New(slog.NewTextHandler(c.Stderr, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeNode(node)) }()
	starting, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	server, err := c.awaitReady(starting, node)
	if err != nil {
		return stopped(ctx, err)
	}
	run := &devRun{c: c, server: server, node: node, manifest: manifestPath, data: data, temporary: temporary, out: c.Stdout}
	if c.format == formatJSON || c.format == formatJSONL {
		run.out = c.Stderr
	}
	return run.serve(ctx)
}

func devListen(f devFlags) (string, error) {
	if f.randomPort {
		return "127.0.0.1:0", nil
	}
	if !isLoopback(f.listen) {
		return "", usage("--listen %s: dev listens on this machine only, as on 127.0.0.1:7070", f.listen).
			WithHint("`pheromone serve` listens elsewhere")
	}
	return f.listen, probe(f.listen)
}

// probe tells of a port in use before anything is set up.
func probe(listen string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return listenError(listen, err)
	}
	return l.Close()
}

func listenError(listen string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return spec.Errorf(spec.CodeUnavailable, "listen on %s: the port is in use, perhaps by another node", listen).
			WithHint("choose another with --listen 127.0.0.1:PORT, or with `dev` find a free one by --random-port")
	}
	return usage("listen on %s: %w", listen, err)
}

func dataFolder(data string) (folder string, temporary bool, err error) {
	if data == "" {
		folder, err = os.MkdirTemp("", "pheromone-dev-")
		return folder, true, err
	}
	folder, err = filepath.Abs(data)
	return folder, false, err
}

func (c *cli) startNode(ctx context.Context, config NodeConfig) (Node, error) {
	point := c.Getenv(failpoint.Variable)
	if err := failpoint.Arm(point); err != nil {
		return nil, usage("%w", err)
	}
	if failpoint.On() {
		config.Log.Warn("a failpoint is armed: this process is here to die", "failpoint", point)
	}
	var err error
	if config.Now, err = failpoint.Clock(c.Getenv(failpoint.ClockVariable)); err != nil {
		return nil, usage("%w", err)
	}
	if config.Now != nil {
		config.Log.Warn("the node's clock is put wrong, as " + failpoint.ClockVariable + " asks")
	}
	node, err := c.StartNode(ctx, config)
	if _, told := errors.AsType[*spec.Error](err); !told && errors.Is(err, syscall.EADDRINUSE) {
		return nil, listenError(config.Listen, err)
	}
	if err != nil {
		return nil, fmt.Errorf("start the node: %w", err)
	}
	return node, nil
}

func (c *cli) awaitReady(ctx context.Context, node Node) (*client.Client, error) {
	server, err := client.New(node.URL(), client.WithUserAgent("pheromone-cli"), client.WithoutDiscovery())
	if err != nil {
		return nil, err
	}
	for {
		err := server.Ready(ctx)
		if err == nil {
			return server, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the node to be ready: %w", err)
		}
	}
}

func closeNode(node Node) error {
	if err := node.Close(); err != nil {
		return fmt.Errorf("stop the node: %w", err)
	}
	return nil
}

// stopped makes of an error that is only the end of ctx none: that is how dev and
// serve are meant to end.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func say(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, format+"\n", args...)
}
