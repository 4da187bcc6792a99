package cli

import (
	"fmt"
	"strings"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) logsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use: "logs APP [FUNCTION]", Short: "Print what functions printed", Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.complete(c.apps, c.functions),
		RunE: func(cmd *cobra.Command, args []string) error {
			options := client.LogsOptions{Tail: tail, Follow: follow}
			if len(args) == 2 {
				options.Function = spec.FunctionName(args[1])
			}
			if tail < 0 {
				return usage("--tail must not be negative")
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			for line, err := range server.Logs(cmd.Context(), spec.AppName(args[0]), options) {
				if err != nil {
					return err
				}
				if err := c.printLog(line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	cmd.Flags().IntVar(&tail, "tail", 0, "how many of the last lines; 0: as many as the server likes")
	return cmd
}

func (c *cli) printLog(line wire.LogLine) error {
	switch c.format {
	case formatJSON, formatJSONL:
		return c.writeJSON(line, "")
	case formatYAML:
		if _, err := fmt.Fprintln(c.Stdout, "---"); err != nil {
			return err
		}
		return c.writeYAML(line)
	}
	_, err := fmt.Fprintln(c.Stdout, c.logLine(line, c.StdoutTerminal))
	return err
}

// logLine is a line of a function's output, fit for a terminal.
func (c *cli) logLine(line wire.LogLine, terminal bool) string {
	from := string(line.Function)
	if line.Invocation != "" {
		from += " " + shortID(line.Invocation)
		if dot := strings.LastIndexByte(line.Invocation, '.'); dot > 0 {
			from += " " + shortSession(spec.SessionID(line.Invocation[:dot]))
		}
	}
	text := harmless(line.Text)
	switch line.Stream {
	case "stderr":
		text = c.paint(terminal, yellow, text)
	case "node": // a failure, told by the node
		text = c.paint(terminal, red, text)
	}
	return fmt.Sprintf("%s %s | %s", c.paint(terminal, dim, clock(line.Time)), harmless(orDash(from)), text)
}
