// Package examples_test runs every example through the real command line, on a
// node of its own.
package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec/wire"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	code, err := withBinary(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withBinary(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "pheromone-examples-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "pheromone")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/pheromone").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build pheromone: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// devNode is a development node in a process of its own.
type devNode struct {
	url  string
	home string
	cmd  *exec.Cmd
}

func startNode(t *testing.T) *devNode {
	t.Helper()
	return startNodeIn(t, t.TempDir())
}

// startNodeIn starts a node on the data in home, if there is some.
func startNodeIn(t *testing.T, home string) *devNode {
	t.Helper()
	n := &devNode{home: home}
	var log bytes.Buffer
	cmd := exec.Command(binary, "dev", "--random-port", "--data", filepath.Join(n.home, "data"), "-o", "json")
	cmd.Env = n.environment()
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.cmd = cmd
	t.Cleanup(func() {
		if cmd.ProcessState != nil {
			return // killed by its test
		}
		if err := errors.Join(cmd.Process.Signal(syscall.SIGINT), cmd.Wait()); err != nil {
			t.Errorf("stop the node: %v\n%s", err, log.String())
		}
	})
	var ready struct{ URL string }
	if err := json.NewDecoder(stdout).Decode(&ready); err != nil {
		t.Fatalf("the node's ready line: %v", err)
	}
	n.url = ready.URL
	return n
}

func (n *devNode) environment() []string {
	return append(os.Environ(), "HOME="+n.home, "XDG_CONFIG_HOME=", "PHEROMONE_PROFILE=", "PHEROMONE_SERVER="+n.url)
}

// run runs one command to its end and returns what it printed on standard output.
func (n *devNode) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.try(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is run for a command that may fail.
func (n *devNode) try(t *testing.T, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = n.environment()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("pheromone %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out), err
}

// outputs reads what a session put out from a result in JSON.
func outputs(t *testing.T, result string) string {
	t.Helper()
	var r wire.Result
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		t.Fatalf("a result in JSON: %v\n%s", err, result)
	}
	if r.Status != wire.SessionCompleted {
		t.Fatalf("the session has status %s: %s", r.Status, result)
	}
	var all strings.Builder
	for _, o := range r.Outputs {
		all.Write(o.Data)
	}
	return all.String()
}

// outputsOf returns what the sessions in which a function ran put out, oldest
// first, as soon as there are as many as are wanted.
func (n *devNode) outputsOf(t *testing.T, app, function string, want int) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		sessions := strings.Fields(n.run(t, "session", "ls", app, "--function", function, "-o", "name"))
		if len(sessions) >= want {
			var all string
			for _, session := range sessions {
				all = outputs(t, n.run(t, "session", "result", app, session, "--wait", "60s", "-o", "json")) + all
			}
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s ran in %d sessions of %s, want %d", function, len(sessions), app, want)
		}
	}
}

// step is one command of an example, and what it prints on standard output.
type step struct {
	command []string
	prints  string // what the outputs of a command with --wait or of invoke are
	quiet   bool   // what is printed has ids in it
	plain   bool   // prints is what stands on standard output
	sorted  bool   // the lines are compared in sorted order: they come in any
}

func put(app, object, value string, more ...string) step {
	return step{command: append([]string{"put", app, object, value}, more...), quiet: true}
}

func (s step) andPrints(text string) step {
	s.command, s.prints, s.quiet = append(s.command, "--wait", "60s"), text, false
	return s
}

// inAnyOrder is for functions that run side by side, each with a line of its own.
func (s step) inAnyOrder() step {
	s.sorted = true
	return s
}

func sortedLines(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

func TestEachExampleDoesWhatItsReadmeSays(t *testing.T) {
	dev := startNode(t)
	for _, example := range []struct {
		name  string
		steps []step
		// Of triggers of scope bucket: the function that they start sessions with,
		// how many, and what those put out together.
		function string
		sessions int
		prints   string
		paced    func(*testing.T, *devNode) // of those whose outputs depend on how quick the machine is
	}{
		{name: "immediate", steps: []step{
			put("immediate", "notes/a", "hello there").andPrints("HELLO THERE\n"),
		}},
		{name: "by-name", steps: []step{
			put("by-name", "inbox/fire", "3rd floor").andPrints("paged somebody: fire\n"),
			put("by-name", "inbox/invoice-7", "12.50").andPrints("filed invoice-7\n"),
			put("by-name", "inbox/postcard", "hi").andPrints(""),
		}},
		{name: "by-set", steps: []step{
			put("by-set", "halves/right", "world", "--session", "pair-1").andPrints(""),
			put("by-set", "halves/left", "hello", "--session", "pair-1").andPrints("hello|world\n"),
		}},
		{name: "by-batch-size", paced: batches},
		{name: "by-time", steps: []step{
			put("by-time", "clicks/a", "x"),
		}, function: "tally", sessions: 1, prints: "clicks: 1\n"},
		{name: "redundant", steps: []step{
			put("redundant", "questions/dinner", "coming?").andPrints("ada and bob said yes\n"),
		}},
		{name: "dynamic-join", steps: []step{
			{command: []string{"invoke", "dynamic-join", "scatter", "1 2 3 4"}, prints: "1 + 4 + 9 + 16 = 30\n"},
		}},
		{name: "dynamic-group", steps: []step{
			put("dynamic-group", "texts/a", "red blue\nred green red").andPrints("red: 3\nblue: 1\ngreen: 1\n").inAnyOrder(),
		}},
		{name: "dead-letter", steps: []step{
			put("dead-letter", "payments/1", "gold").andPrints("charged gold at attempt 1\n"),
			put("dead-letter", "payments/2", "shaky").andPrints("charged shaky at attempt 3\n"),
			put("dead-letter", "payments/3", "stolen").andPrints("sorry: the card is stolen (permanent, attempts: 1)\n"),
			put("dead-letter", "payments/4", "broken").andPrints("sorry: OSError: the bank is gone (failed, attempts: 3)\n"),
		}},
		{name: "conditions", steps: []step{
			put("conditions", "orders/1", `{"total": 20}`, "--content-type", "application/json").andPrints("ship 1\n"),
			put("conditions", "orders/2", `{"total": 2000}`, "--content-type", "application/json").andPrints("review 2: 2000\n"),
			put("conditions", "orders/3", "a letter").andPrints(""),
		}},
		{name: "rerun", paced: reruns},
		{name: "child-sessions", steps: []step{
			put("child-sessions", "orders/1", "tea milk cake").andPrints("tea + milk + cake = 15\n"),
			put("child-sessions", "orders/2", "tea gold caviar", "--session", "order-2").andPrints("tea = 4\n"),
			{command: []string{"get", "child-sessions", "letters/gold", "--session", "order-2"}, plain: true, prints: "No gold: there is no gold\n"},
			{command: []string{"get", "child-sessions", "letters/caviar", "--session", "order-2"}, plain: true,
				prints: "No caviar: the session did not end within 1s, its deadline\n"},
		}},
		{name: "on-delete", steps: []step{
			put("on-delete", "leases/desk-1", "Ada"),
			put("on-delete", "leases/desk-1", "Eve"),
			step{command: []string{"rm", "on-delete", "leases/desk-1"}}.andPrints("desk-1 is free again, Eve had it\n"),
			put("on-delete", "leases/desk-2", "Bob", "--ttl", "100ms"),
		}, function: "release", sessions: 2, prints: "desk-1 is free again, Eve had it\ndesk-2 is free again, Bob had it\n"},
		{name: "delayed", steps: []step{
			put("delayed", "teas/oolong", "please").andPrints("oolong is ready\n"),
			put("delayed", "reminders/eggs", "eggs are ready", "--deliver-after", "100ms").andPrints("eggs are ready\n"),
		}},
	} {
		t.Run(example.name, func(t *testing.T) {
			t.Parallel()
			dev.run(t, "apply", "-f", filepath.Join(example.name, "app.yaml"))
			if example.paced != nil {
				example.paced(t, dev)
				return
			}
			for _, s := range example.steps {
				if s.plain {
					if got := dev.run(t, s.command...); got != s.prints {
						t.Errorf("pheromone %s printed %q, want %q", strings.Join(s.command, " "), got, s.prints)
					}
					continue
				}
				out := dev.run(t, append(s.command, "-o", "json")...)
				if s.quiet {
					continue
				}
				got, want := outputs(t, out), s.prints
				if s.sorted {
					got, want = sortedLines(got), sortedLines(want)
				}
				if got != want {
					t.Errorf("pheromone %s put out %q, want %q", strings.Join(s.command, " "), got, want)
				}
			}
			if example.function == "" {
				return
			}
			if got := dev.outputsOf(t, example.name, example.function, example.sessions); got != example.prints {
				t.Errorf("%s put out %q, want %q", example.function, got, example.prints)
			}
		})
	}
}

// What tr, sort and uniq count in the book; the README has the command.
var frequent = []struct {
	Word  string
	Count int
}{
	{"the", 9824}, {"of", 5241}, {"and", 4182}, {"to", 2074}, {"in", 2014},
	{"by", 1482}, {"a", 1430}, {"that", 1340}, {"be", 1238}, {"which", 991},
}

func TestTheWordsOfABookAreCountedAlikeInPythonAndGo(t *testing.T) {
	// The program is built outside the tree, where nothing else may be building it.
	goApp := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(goApp, "wordcount"), "./wordcount-go").CombinedOutput(); err != nil {
		t.Fatalf("build wordcount-go: %v\n%s", err, out)
	}
	manifest, err := os.ReadFile("wordcount-go/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(goApp, "app.yaml"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	dev := startNode(t)
	for app, folder := range map[string]string{"wordcount": "wordcount", "wordcount-go": goApp} {
		t.Run(app, func(t *testing.T) {
			dev.run(t, "apply", "-f", folder)
			out := dev.run(t, "put", app, "documents/opticks", "@wordcount/opticks.txt", "--wait", "60s")
			var got struct {
				Total int
				Top   []struct {
					Word  string
					Count int
				}
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("the result: %v\n%s", err, out)
			}
			if got.Total != 99916 {
				t.Errorf("the book has %d words, want 99916", got.Total)
			}
			if fmt.Sprint(got.Top) != fmt.Sprint(frequent) {
				t.Errorf("the most frequent words are\n%v, want\n%v", got.Top, frequent)
			}
		})
	}
}

func TestEveryExampleHasAReadme(t *testing.T) {
	manifests, err := filepath.Glob("*/app.yaml")
	if err != nil || len(manifests) < 12 {
		t.Fatalf("found %d examples (%v), want 12 or more", len(manifests), err)
	}
	for _, manifest := range manifests {
		example := filepath.Dir(manifest)
		readme := filepath.Join(example, "README.md")
		command := "pheromone apply -f examples/" + example
		if example == "custom-primitive" { // a program that brings its node along
			command = "go run ./examples/" + example
		}
		if text, err := os.ReadFile(readme); err != nil || !bytes.Contains(text, []byte(command)) {
			t.Errorf("%s does not say %q (%v)", readme, command, err)
		}
	}
}
