package hostile

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// TestTheCommandLineTellsProgramsHowItWent: every exit code means what the help
// says, and errors are on stderr, in JSON where JSON was asked for.
func TestTheCommandLineTellsProgramsHowItWent(t *testing.T) {
	t.Parallel()
	node := nodetest.Start(t)
	prepare(t, node)
	broken := filepath.Join(t.TempDir(), "app.yaml")
	write(t, broken, header+"functoins: {}\n")
	for _, c := range []struct {
		name string
		args []string
		exit int
		code spec.Code
		says string
	}{
		{"a function that fails", []string{"invoke", "bad", "fails", "x"}, 1, spec.CodeSessionFailed, "always fails"},
		{"a program that is not there", []string{"invoke", "bad", "missing", "x"}, 1, spec.CodeSessionFailed, "not found"},
		{"a manifest with a fault", []string{"apply", "-f", broken}, 1, spec.CodeBadManifest, "functions"},
		{"an object that is fine", []string{"put", "bad", "plain/large", strings.Repeat("x", 100<<10)}, 0, "", ""},
		{"an unknown command", []string{"frobnicate"}, 2, spec.CodeInvalid, "frobnicate"},
		{"an unknown flag", []string{"ls", "--frobnicate"}, 2, spec.CodeInvalid, "frobnicate"},
		{"too few arguments", []string{"invoke", "bad"}, 2, spec.CodeInvalid, "invoke"},
		{"an object without a key", []string{"put", "bad", "plain", "x"}, 2, spec.CodeInvalid, "BUCKET/KEY"},
		{"a duration without unit", []string{"put", "bad", "plain/k", "x", "--ttl", "5"}, 2, spec.CodeInvalid, "unit"},
		{"a manifest that is not there", []string{"apply", "-f", "nowhere.yaml"}, 2, spec.CodeInvalid, "nowhere.yaml"},
		{"a name outside of the alphabet", []string{"get", "BAD", "plain/k"}, 2, spec.CodeInvalid, "lower-case"},
		{"an unknown app", []string{"app", "show", "nobody"}, 3, spec.CodeNotFound, "nobody"},
		{"an unknown function", []string{"invoke", "bad", "nobody", "x"}, 3, spec.CodeNotFound, "echo"},
		{"an unknown object", []string{"get", "bad", "plain/nothing"}, 3, spec.CodeNotFound, "nothing"},
		{"an unknown session", []string{"session", "show", "bad", "nothing"}, 3, spec.CodeNotFound, "nothing"},
		{"another revision than the newest", []string{"put", "bad", "plain/there", "y", "--if-match", "999999"}, 4, spec.CodePrecondition, "there"},
		{"other bytes under a key of a session", []string{"put", "bad", "@echo/in", "y", "--session", "done"}, 4, spec.CodeConflict, "in"},
		{"a put into a failed session", []string{"put", "bad", "plain/late", "y", "--session", "failed"}, 4, spec.CodeConflict, "rerun"},
		{"a wait that is over", []string{"invoke", "bad", "sleeps", "x", "--wait", "100ms"}, 6, spec.CodeTimeout, "goes on"},
		{"a node that is not there", []string{"app", "ls", "--server", "http://127.0.0.1:1", "--timeout", "300ms"}, 6, spec.CodeUnavailable, "127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs := node.CLI(c.exit, c.args...)
			quiet(t, out, errs)
			if !strings.Contains(errs, c.says) {
				t.Errorf("stderr does not say %q:\n%s", c.says, errs)
			}
			if c.exit == 0 {
				return
			}
			_, errs = node.CLI(c.exit, append(c.args, "-o", "json")...)
			var e wire.ErrorBody
			if err := json.Unmarshal([]byte(errs), &e); err != nil || e.Error.Code != c.code || e.Error.Message == "" {
				t.Errorf("stderr is not the JSON of an error with code %s (%v):\n%s", c.code, err, errs)
			}
		})
	}
	t.Run("what works says nothing on stderr", func(t *testing.T) {
		for _, args := range [][]string{
			{"put", "bad", "plain/fine", "x"}, {"get", "bad", "plain/fine"}, {"ls", "bad", "plain"}, {"rm", "bad", "plain/fine"},
			{"invoke", "bad", "echo", "x"}, {"session", "ls", "bad"}, {"session", "show", "bad", "done"}, {"logs", "bad"}, {"app", "ls"}, {"cluster", "status"},
		} {
			out, errs := node.CLI(0, args...)
			quiet(t, out, errs)
			if errs != "" {
				t.Errorf("%v says on stderr: %s", args, errs)
			}
		}
	})
	t.Run("what destroys needs --yes in a pipe", func(t *testing.T) {
		_, errs := node.CLI(2, "app", "delete", "bad")
		if !strings.Contains(errs, "--yes") {
			t.Errorf("stderr does not say --yes: %s", errs)
		}
		node.CLI(0, "app", "show", "bad")
	})
}

// quiet checks that nothing of what is for terminals is in a pipe.
func quiet(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.ContainsAny(text, "\x1b\r") {
			t.Errorf("this is for a terminal: %q", text)
		}
	}
}
