package cli

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/spf13/cobra"
)

//go:embed templates
var templates embed.FS

// templateFiles are the files of a new app, by language: where each comes from
// and goes to. Go's carry another ending here, so that they are not built with us.
var templateFiles = map[string][][2]string{
	"python": {{"app.yaml", "app.yaml"}, {"app.py", "app.py"}, {"README.md", "README.md"}},
	"go": {{"app.yaml", "app.yaml"}, {"main.go.txt", "main.go"}, {"go.mod.txt", "go.mod"},
		{"pheromoneignore.txt", ".pheromoneignore"}, {"README.md", "README.md"}},
}

func (c *cli) initCommand() *cobra.Command {
	var lang, name string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a small app to begin with",
		Long:  "Write a small app into DIR, ready for `pheromone dev DIR/app.yaml`. Files that are there are never\noverwritten. With --lang go the program is built, too, which needs the Go tools.",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if templateFiles[lang] == nil {
				return usage("--lang %q: use python or go", lang)
			}
			return c.initApp(args[0], lang, name)
		},
	}
	cmd.Flags().StringVar(&lang, "lang", "python", "language of its functions: python or go")
	cmd.Flags().StringVar(&name, "name", "", "name of the app (default: DIR's)")
	_ = cmd.RegisterFlagCompletionFunc("lang", fixed("python", "go"))
	return cmd
}

func (c *cli) initApp(dir, lang, name string) error {
	whole, err := filepath.Abs(dir)
	if err != nil {
		return usage("%w", err)
	}
	if name == "" {
		name = filepath.Base(whole)
	}
	if err := spec.ValidAppName(name); err != nil {
		return usage("%w", err).WithHint("name the app with --name")
	}
	files, err := render(lang, name)
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err == nil {
			return spec.Errorf(spec.CodeConflict, "%s is there already and is not overwritten", filepath.Join(dir, f.name)).
				WithHint("name a folder that does not exist yet")
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return usage("%w", err)
	}
	for _, f := range files {
		if err := writeNew(filepath.Join(dir, f.name), f.text); err != nil {
			return err
		}
	}
	if lang == "go" {
		if err := buildApp(dir); err != nil {
			return err
		}
	}
	manifest := filepath.Join(dir, "app.yaml")
	return c.show(view{
		value: map[string]any{"app": name, "manifest": manifest}, names: []string{manifest},
		table: func(t *table) {
			t.linef("wrote the app %s; run it with", name)
			t.linef("")
			t.linef("  pheromone dev %s", harmless(manifest))
			t.linef("")
			t.linef("and, in another terminal, give it something to do:")
			t.linef("")
			t.linef("  pheromone put %s names/first Ada --follow", name)
		},
	})
}

type newFile struct {
	name string
	text []byte
}

func render(lang, name string) ([]newFile, error) {
	data := struct{ Name, Version, Checkout string }{Name: name, Version: "v0.0.0"}
	if v := programVersion(); strings.HasPrefix(v.Version, "v") && !strings.Contains(v.Version, "+dirty") && !v.Modified {
		data.Version = v.Version
	}
	// A module that was not released can only come from the checkout that this
	// program was built from.
	data.Checkout = checkout()
	var files []newFile
	for _, f := range templateFiles[lang] {
		t, err := template.ParseFS(templates, "templates/"+lang+"/"+f[0])
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", f[1], err)
		}
		var text bytes.Buffer
		if err := t.Execute(&text, data); err != nil {
			return nil, fmt.Errorf("write %s: %w", f[1], err)
		}
		files = append(files, newFile{f[1], text.Bytes()})
	}
	return files, nil
}

// checkout is the folder of the sources of this program, if it is still there and
// no module's, which has its version in its name.
func checkout() string {
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil || !filepath.IsAbs(root) || strings.Contains(root, "@") {
		return ""
	}
	return root
}

func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return spec.Errorf(spec.CodeConflict, "%s is there already and is not overwritten", path)
	}
	if err != nil {
		return usage("%w", err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func buildApp(dir string) error {
	build := exec.Command("go", "build", "-mod=mod", "-o", "app", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return spec.Errorf(spec.CodeInternal, "the files are written, but the program could not be built: %v\n%s", err, bytes.TrimSpace(out)).
			WithHint("mend that and run `go build -o app .` in " + dir)
	}
	return nil
}
