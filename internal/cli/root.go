package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/spf13/cobra"
)

// Deps is what the command line takes from its process.
type Deps struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Which of the streams are terminals.
	StdinTerminal, StdoutTerminal, StderrTerminal bool
	Getenv                                        func(string) string
	Now                                           func() time.Time
	StartNode                                     func(context.Context, NodeConfig) (Node, error)
	// Exit ends the process at once; it is called on a second interrupt.
	Exit func(code int)
}

// NodeConfig is what dev and serve ask of a node.
type NodeConfig struct {
	Name    string
	DataDir string
	Listen  string
	Shards  int // 0: the node's default
	// ReserveBytes is how much room on the disk is left; 0: the node's default.
	ReserveBytes int64
	// InputBytes bounds the inputs that attempts hold in memory; 0: the node's default.
	InputBytes int64
	// SharedBytes bounds the memory that functions' processes share with the node; 0:
	// the node's default, negative: none.
	SharedBytes int64
	Insecure    bool // Listen may be reached from other machines
	Alone       bool // data of a cluster is refused
	// What makes the node one of a cluster, and how that works; zero values are the
	// node's defaults.
	PeerListen, PeerAdvertise string
	Join                      []string
	Expect                    int
	JoinToken                 string
	Replicas                  int
	RaftRTT                   time.Duration
	RaftElection              int
	RebuildAfter              time.Duration
	DiskTimeout               time.Duration
	Version                   string
	Now                       func() time.Time // the clock; nil: the system's
	Log                       *slog.Logger
}

// Node is a running node.
type Node interface {
	URL() string
	Wait() error // until it has ended by itself or by Close
	Close() error
}

// System returns the Deps of this process.
func System(start func(context.Context, NodeConfig) (Node, error)) Deps {
	return Deps{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		StdinTerminal: isTerminal(os.Stdin), StdoutTerminal: isTerminal(os.Stdout), StderrTerminal: isTerminal(os.Stderr),
		Getenv: os.Getenv, Now: time.Now, StartNode: start, Exit: os.Exit,
	}
}

// Main runs the command that args name and returns the exit code. The first
// interrupt asks it to stop, the second one ends the process.
func Main(args []string, d Deps) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			return
		}
		<-signals
		d.Exit(exitInterrupted)
	}()
	return Run(ctx, args, d)
}

// Run is Main without the signals: the end of ctx is the interrupt.
func Run(ctx context.Context, args []string, d Deps) int {
	c := &cli{Deps: d, format: formatTable}
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !c.parsed {
		c.format = formatInArgs(args)
		if spec.CodeOf(err) == spec.CodeInternal {
			err = typedWrong(cmd, err)
		}
	}
	c.printError(ctx, err)
	return exitCode(ctx, err)
}

// typedWrong is an error of the arguments of cmd, as cobra found it.
func typedWrong(cmd *cobra.Command, err error) *spec.Error {
	if number, ok := errors.AsType[*strconv.NumError](err); ok {
		text := strings.TrimSuffix(err.Error(), number.Error())
		err = fmt.Errorf("%s%q is not a whole number in range", text, number.Num)
	}
	if !cmd.HasParent() {
		return usage("%w", err).WithHint("see `pheromone --help`, or --help after a command")
	}
	return usage("%w", err).WithHint(fmt.Sprintf("usage: %s; see `%s --help`", cmd.UseLine(), cmd.CommandPath()))
}

// flagsTogether puts into words what cobra says of flags that exclude each other.
func flagsTogether(err error) error {
	text := strings.TrimSuffix(err.Error(), "] were all set")
	open := strings.LastIndexByte(text, '[')
	if text == err.Error() || open < 0 {
		return err
	}
	names := strings.Fields(text[open+1:])
	return fmt.Errorf("--%s don't go together: give one of them", strings.Join(names, " and --"))
}

// typos is how many letters of a command may be wrong for it to be recognized.
const typos = 2

// knownCommand refuses a command that is not there, and names what it may have
// been meant to be.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		text += fmt.Sprintf(": did you mean %q?", like[0])
	}
	return errors.New(text)
}

// cli is one run of the command line.
type cli struct {
	Deps
	server    string
	profile   string
	format    format
	noHeaders bool
	timeout   durationFlag
	parsed    bool // the arguments were understood: from now on errors are not the usage's
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "pheromone",
		Short:         "Serverless workflows that follow their data",
		Long:          "Pheromone runs functions when data arrives: objects are put into buckets, triggers on the\nbuckets decide which functions run, and what those put drives the next ones.\n\nBegin with `pheromone init hello` and `pheromone dev hello/app.yaml`.\n\nExit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 not allowed, 6 unavailable or timed out.",
		SilenceUsage:  true,
		SilenceErrors: true,

		SuggestionsMinimumDistance: typos,

		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			// cobra asks only after this, when errors are no longer the usage's
			if err := cmd.ValidateFlagGroups(); err != nil {
				return flagsTogether(err)
			}
			c.parsed = true
			return nil
		},
	}
	root.SetIn(c.Stdin)
	root.SetOut(c.Stdout)
	root.SetErr(c.Stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&c.server, "server", "", "URL of a node, or of several, separated by commas (or PHEROMONE_SERVER; default "+client.DefaultURL+")")
	flags.StringVar(&c.profile, "profile", "", "profile of the configuration file to take the server from (or PHEROMONE_PROFILE)")
	flags.VarP(&c.format, "output", "o", "how to print results: table, json, jsonl, yaml or name")
	flags.BoolVar(&c.noHeaders, "no-headers", false, "tables without their first line")
	c.timeout = durationFlag(time.Minute)
	flags.Var(&c.timeout, "timeout", "how long to try calls that don't wait for something; 0: for ever")
	_ = root.RegisterFlagCompletionFunc("output", fixed("table", "json", "jsonl", "yaml", "name"))
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)

	root.AddGroup(
		&cobra.Group{ID: "node", Title: "Run a node:"},
		&cobra.Group{ID: "apps", Title: "Deploy apps:"},
		&cobra.Group{ID: "data", Title: "Data and functions:"},
		&cobra.Group{ID: "runs", Title: "See what runs:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	add("node", c.devCommand(), c.serveCommand(), c.clusterCommand(), c.benchCommand())
	add("apps", c.initCommand(), c.applyCommand(), c.diffCommand(), c.validateCommand(), c.schemaCommand(), c.appCommand())
	add("data", c.putCommand(), c.getCommand(), c.lsCommand(), c.rmCommand(), c.watchCommand(), c.invokeCommand())
	add("runs", c.sessionCommand(), c.logsCommand())
	root.AddCommand(c.versionCommand())
	return root
}

// bounded is the context of a call that does not wait for anything.
func (c *cli) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(c.timeout))
}

// carrying is the context of a call that carries an object, which may be of any
// size: only who says --timeout bounds it.
func (c *cli) carrying(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	if !cmd.Flags().Changed("timeout") {
		return context.WithCancel(cmd.Context())
	}
	return c.bounded(cmd.Context())
}

// silenceTime is how long a node may take to begin its answer. It is more than the
// ten seconds after which a node gives up on a shard without a leader, so that its
// reason is heard.
const silenceTime = 12 * time.Second

// reachTime is how long it may take until the first answer of any server: whoever
// types a wrong address is not to wait as long as for a node that is restarted.
const reachTime = time.Second

// connect makes the client of the servers that the flags, the environment or a
// profile name.
func (c *cli) connect() (*client.Client, error) {
	server, err := c.serverURL()
	if err != nil {
		return nil, err
	}
	return client.New(server, client.WithUserAgent("pheromone-cli"),
		client.WithRetry(client.Retry{Reach: reachTime, Silence: silenceTime, Backoff: 100 * time.Millisecond, MaxBackoff: time.Second, Again: c.stillTrying()}))
}

// quietTime is how long a call is repeated without a word.
const quietTime = 2 * time.Second

// stillTrying tells people, once, why a command takes long that is sent again and again.
func (c *cli) stillTrying() func(error) {
	began := time.Now()
	var once sync.Once
	return func(err error) {
		if time.Since(began) > quietTime {
			once.Do(func() { c.notice("it is tried again: %v", err) })
		}
	}
}

// asking is the RunE of a command that asks a server and waits for nothing.
func (c *cli) asking(ask func(ctx context.Context, server *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		server, err := c.connect()
		if err != nil {
			return err
		}
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		return ask(ctx, server, args)
	}
}

// family is a command that only holds others.
func family(use, short string, commands ...*cobra.Command) *cobra.Command {
	parent := &cobra.Command{
		Use: use, Short: short,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: typos,
	}
	parent.AddCommand(commands...)
	return parent
}

// formatInArgs finds the format that was asked for where the arguments could not
// be understood as a whole.
func formatInArgs(args []string) format {
	for i, arg := range args {
		var value string
		switch {
		case (arg == "-o" || arg == "--output") && i+1 < len(args):
			value = args[i+1]
		case strings.HasPrefix(arg, "--output="):
			value = strings.TrimPrefix(arg, "--output=")
		case strings.HasPrefix(arg, "-o"):
			value = strings.TrimPrefix(strings.TrimPrefix(arg, "-o"), "=")
		}
		var f format
		if f.Set(value) == nil {
			return f
		}
	}
	return formatTable
}
