package cli_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/internal/wasmtest"
)

func TestAFunctionWhoseProgramIsNotInTheFolderIsNotDeployed(t *testing.T) {
	tests := map[string]struct {
		command, says, warns string
		code                 int
	}{
		"a program that is there":       {"[./run, now]", "", "", 0},
		"one from the path":             {"[python3, app.py]", "", "", 0},
		"one of the system":             {"[/bin/no-such-program]", "", "", 0},
		"one that was not built":        {"[./wordcount]", `5:15: functions.f.command[0]: "./wordcount" is not in the manifest's folder`, "", 1},
		"one that cannot be executed":   {"[./app.py]", `functions.f.command[0]: "./app.py" is not executable`, "", 1},
		"a folder":                      {"[./bin]", `"./bin" is a folder`, "", 1},
		"one from outside the folder":   {"[../run]", "lies outside the manifest's folder", "", 1},
		"a script that is not there":    {"[python3, -u, ap.py]", "", `5:28: warning: functions.f.command[2]: "ap.py" is not in the manifest's folder`, 0},
		"an option that names a script": {"[python3, --log=x.py, 'https://x/y.js']", "", "", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := demo(t)
			write(t, filepath.Join(dir, "app.yaml"), "apiVersion: pheromone/v1\napp: demo\nfunctions:\n  f:\n    command: "+test.command+"\n    runtime: process\n")
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "run"), nil, 0o755), os.Mkdir(filepath.Join(dir, "bin"), 0o755)); err != nil {
				t.Fatal(err)
			}
			s := newShell(t, nil)
			o := s.run("validate", dir)
			if o.code != test.code || !strings.Contains(o.stderr, test.says) || !strings.Contains(o.stderr, test.warns) {
				t.Errorf("validate: %+v", o)
			}
			if test.code == 0 && strings.Contains(o.stderr, "warning: functions.f.command") != (test.warns != "") {
				t.Errorf("validate warns: %+v", o)
			}
			if test.code == 0 {
				return
			}
			if o := s.run("apply", dir); o.code != 1 || len(s.asked) > 0 {
				t.Errorf("apply: %+v, requests %q", o, s.asked)
			}
		})
	}
}

func TestAFunctionWhoseModuleCanNotBeRunIsNotDeployed(t *testing.T) {
	foreign := wasmtest.Module{Imports: []wasmtest.Import{{From: "env", Name: "log"}}}.Assemble()
	tests := map[string]struct {
		module []byte
		memory string
		says   string
	}{
		"a module that is there":     {wasmtest.Guest(), "1MiB", ""},
		"one that was not built":     {nil, "1MiB", `7:11: functions.f.file: "f.wasm" is not in the manifest's folder`},
		"one that is something else": {[]byte("ELF"), "1MiB", `"f.wasm" cannot be run: it is not a WebAssembly module`},
		"one for another host":       {foreign, "1MiB", `it imports "log" of "env"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "app.yaml"), "apiVersion: pheromone/v1\napp: demo\nfunctions:\n  f:\n    runtime: wasm\n    memory: "+test.memory+"\n    file: f.wasm\n")
			if test.module != nil {
				write(t, filepath.Join(dir, "f.wasm"), string(test.module))
			}
			s := newShell(t, nil)
			if o := s.run("validate", dir); (o.code == 0) != (test.says == "") || !strings.Contains(o.stderr, test.says) {
				t.Errorf("validate: %+v", o)
			}
			if test.says == "" {
				return
			}
			if o := s.run("apply", dir); o.code != 1 || len(s.asked) > 0 {
				t.Errorf("apply: %+v, requests %q", o, s.asked)
			}
		})
	}
}

func TestTheManifestIsAnArgumentOrAFlag(t *testing.T) {
	dir := demo(t)
	s := newShell(t, nil)
	for _, args := range [][]string{{"validate", dir}, {"validate", filepath.Join(dir, "app.yaml")}, {"validate", "-f", dir}} {
		if o := s.run(args...); o.code != 0 || !strings.Contains(o.stdout, "is valid") {
			t.Errorf("%v: %+v", args, o)
		}
	}
	for text, args := range map[string][]string{
		"given twice":              {"apply", dir, "-f", dir},
		"one manifest at a time":   {"apply", dir, dir},
		"`pheromone apply app.yam": {"diff"},
	} {
		if o := s.run(args...); o.code != 2 || !strings.Contains(o.stderr, text) {
			t.Errorf("%v: %+v", args, o)
		}
	}
}
