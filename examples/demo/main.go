// Command demo shows Pheromone at work in half a minute: it starts a node, deploys
// the word-count example, puts a book into it, prints the ten most frequent words
// and how the session ran, and keeps the node up until Ctrl-C. Everything goes
// through the command line, as a user would type it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	binary := flag.String("binary", "bin/pheromone", "the pheromone binary")
	example := flag.String("example", "examples/wordcount", "the folder of the example")
	stay := flag.Bool("stay", true, "keep the node up until Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *example, *stay); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, example string, stay bool) (err error) {
	node, err := start(ctx, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.stop()) }()

	say("$ pheromone apply -f %s/app.yaml", example)
	if _, err := node.cli(ctx, os.Stdout, "apply", "-f", filepath.Join(example, "app.yaml")); err != nil {
		return err
	}
	book := filepath.Join(example, "opticks.txt")
	say("\n$ pheromone put wordcount documents/opticks @%s --wait 60s", book)
	result, err := node.cli(ctx, nil, "put", "wordcount", "documents/opticks", "@"+book, "--wait", "60s", "-o", "json")
	if err != nil {
		return err
	}
	session, err := printWords(result)
	if err != nil {
		return err
	}
	say("\n$ pheromone session show wordcount %s --full", session)
	if _, err := node.cli(ctx, os.Stdout, "session", "show", "wordcount", session, "--full"); err != nil {
		return err
	}
	if !stay {
		return nil
	}
	say("\nThe node is up at %s until Ctrl-C. Try, in another terminal:", node.URL)
	say("  export PHEROMONE_SERVER=%s", node.URL)
	say("  echo 'to be or not to be' | %s put wordcount documents/hamlet - --follow", binary)
	<-ctx.Done()
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// printWords prints the table of the words in the session's only output.
func printWords(answer []byte) (session string, err error) {
	var result struct {
		Session string `json:"session"`
		Outputs []struct {
			Data []byte `json:"data"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return "", fmt.Errorf("read the result %q: %w", answer, err)
	}
	if len(result.Outputs) != 1 {
		return "", fmt.Errorf("the session has %d outputs, want one", len(result.Outputs))
	}
	var words struct {
		Total int `json:"total"`
		Top   []struct {
			Word  string `json:"word"`
			Count int    `json:"count"`
		} `json:"top"`
	}
	if err := json.Unmarshal(result.Outputs[0].Data, &words); err != nil {
		return "", fmt.Errorf("read the words %q: %w", result.Outputs[0].Data, err)
	}
	say("\n%d words; the most frequent ones:\n", words.Total)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, w := range words.Top {
		fmt.Fprintf(table, "%s\t%d\t\n", w.Word, w.Count)
	}
	return result.Session, table.Flush()
}

// server is a node in a process of its own.
type server struct {
	URL     string `json:"url"`
	binary  string
	process *exec.Cmd
}

// start runs `pheromone dev` and waits for its ready line.
func start(ctx context.Context, binary string) (*server, error) {
	args := []string{"dev", "-o", "json"}
	if taken("127.0.0.1:7070") {
		args = append(args, "--random-port")
	}
	say("$ pheromone dev")
	began := time.Now()
	// The node gets Ctrl-C from this program, not from the terminal, so that it
	// stays while the last commands run.
	cmd := exec.Command(binary, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w (build it with: make build)", binary, err)
	}
	s := &server{binary: binary, process: cmd}
	lines := bufio.NewReader(out)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the node did not get ready: %w", err), s.stop())
	}
	if err := json.Unmarshal(line, s); err != nil {
		return nil, errors.Join(fmt.Errorf("read the node's ready line %q: %w", line, err), s.stop())
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // what functions log; ends with the node
	say("ready in %d ms at %s\n", time.Since(began).Milliseconds(), s.URL)
	return s, ctx.Err()
}

func taken(address string) bool {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return true
	}
	_ = l.Close()
	return false
}

// cli runs a command against the node and returns what it prints, which also goes to out.
func (s *server) cli(ctx context.Context, out io.Writer, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.binary, append(args, "--server", s.URL)...)
	var printed bytes.Buffer
	cmd.Stdout = &printed
	if out != nil {
		cmd.Stdout = io.MultiWriter(&printed, out)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pheromone %s: %w", strings.Join(args, " "), err)
	}
	return printed.Bytes(), nil
}

func (s *server) stop() error {
	_ = s.process.Process.Signal(os.Interrupt)
	if err := s.process.Wait(); err != nil {
		return fmt.Errorf("the node ended: %w", err)
	}
	return nil
}
