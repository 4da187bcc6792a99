package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/module"
)

// scripts are the endings by which an argument of a command is taken for a file
// of the app.
var scripts = []string{".py", ".js", ".mjs", ".ts", ".sh", ".rb", ".pl", ".jar"}

// checkCommands finds functions whose program is not in the folder that is
// uploaded: they would be deployed and fail to start. A program that is missing is
// a fault; an argument that looks like a file may be something else, and is a
// warning.
func (m *manifest) checkCommands() error {
	if m.dir == "" {
		return nil
	}
	var faults []spec.Fault
	for _, name := range slices.Sorted(maps.Keys(m.app.Functions)) {
		f := m.app.Functions[name]
		if f.Runtime == spec.RuntimeWasm {
			if problem := m.module(f); problem != "" {
				faults = append(faults, m.faultAt(f, "file", -1, problem))
			}
		}
		if f.Runtime != spec.RuntimeProcess || len(f.Command) == 0 {
			continue
		}
		if problem := m.program(f.Command[0]); problem != "" {
			faults = append(faults, m.faultAt(f, "command", 0, problem))
		}
		for n, argument := range f.Command[1:] {
			if m.lacksScript(argument) {
				w := m.faultAt(f, "command", n+1, fmt.Sprintf("%q is not in the manifest's folder", argument))
				w.Warning = true
				m.missing = append(m.missing, w)
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	slices.SortStableFunc(faults, func(a, b spec.Fault) int { return a.Line - b.Line })
	text := faultLine(m.path, faults[0])
	if len(faults) > 1 {
		text = fmt.Sprintf("%s: %d faults, the first at %s", m.path, len(faults), faultLine("", faults[0]))
	}
	err := spec.Errorf(spec.CodeBadManifest, "%s", text).
		WithHint("a command with a slash, and a module, is a file of that folder: build it first, or make the command executable")
	err.Faults = faults
	return err
}

// program says what is wrong with the program of a command; "" if nothing is, or
// if that can only be known where it runs.
func (m *manifest) program(name string) string {
	if !strings.Contains(name, "/") || filepath.IsAbs(name) {
		return ""
	}
	if !filepath.IsLocal(name) {
		return fmt.Sprintf("%q lies outside the manifest's folder, which is all that is uploaded", name)
	}
	info, err := os.Stat(filepath.Join(m.dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%q is not in the manifest's folder", name)
	case err != nil:
		return fmt.Sprintf("%q cannot be run: %v", name, err)
	case info.IsDir():
		return fmt.Sprintf("%q is a folder", name)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Sprintf("%q is not executable", name)
	}
	return ""
}

func (m *manifest) lacksScript(argument string) bool {
	if strings.HasPrefix(argument, "-") || strings.Contains(argument, "://") || !filepath.IsLocal(argument) || !slices.Contains(scripts, filepath.Ext(argument)) {
		return false
	}
	_, err := os.Stat(filepath.Join(m.dir, argument))
	return errors.Is(err, fs.ErrNotExist)
}

// module says what is wrong with the module of a function; "" if nothing is.
func (m *manifest) module(f *spec.Function) string {
	data, err := readFile(filepath.Join(m.dir, f.File), module.MaxBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%q is not in the manifest's folder", f.File)
	case err != nil:
		return fmt.Sprintf("%q cannot be read: %v", f.File, err)
	}
	if err := module.Check(data, f.Memory); err != nil {
		return fmt.Sprintf("%q cannot be run: %v", f.File, err)
	}
	return ""
}

// faultAt is a fault of a field of a function, or of its item n from 0.
func (m *manifest) faultAt(f *spec.Function, field string, n int, message string) spec.Fault {
	fault := spec.Fault{Path: fmt.Sprintf("functions.%s.%s", f.Name, field), Message: message}
	builder := (&yaml.PathBuilder{}).Root().Child("functions").Child(string(f.Name)).Child(field)
	if n >= 0 {
		fault.Path += fmt.Sprintf("[%d]", n)
		builder = builder.Index(uint(n))
	}
	file, err := parser.ParseBytes(m.data, 0) // JSON is YAML here
	if err != nil {
		return fault
	}
	if node, err := builder.Build().FilterFile(file); err == nil && node.GetToken() != nil {
		fault.Line, fault.Column = node.GetToken().Position.Line, node.GetToken().Position.Column
	}
	return fault
}
