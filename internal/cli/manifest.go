package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// manifestNames are looked for where a folder is given instead of a file.
var manifestNames = []string{"app.yaml", "app.yml", "app.json"}

// manifest is a manifest's file and what it says.
type manifest struct {
	path     string // "-" for the standard input
	dir      string // the folder that is uploaded with it
	data     []byte
	json     bool
	app      *spec.App
	warnings []spec.Fault
}

// loadManifest reads and parses the manifest at path, so that its faults are
// told without a server.
func (c *cli) loadManifest(path string) (*manifest, error) {
	m, err := c.openManifest(path)
	if err != nil {
		return nil, err
	}
	format := spec.FormatYAML
	if m.json {
		format = spec.FormatJSON
	}
	m.app, m.warnings, err = spec.Parse(m.path, m.data, format)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (c *cli) openManifest(path string) (*manifest, error) {
	if path == "" {
		return nil, usage("no manifest: name one with -f, as in -f app.yaml")
	}
	if path == "-" {
		data, err := io.ReadAll(io.LimitReader(c.Stdin, spec.MaxManifestBytes+1)) // Parse refuses what is too long
		if err != nil {
			return nil, usage("read the manifest: %w", err)
		}
		return &manifest{path: "-", data: data}, nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		i := slices.IndexFunc(manifestNames, func(name string) bool {
			_, err := os.Stat(filepath.Join(path, name))
			return err == nil
		})
		if i < 0 {
			return nil, usage("no manifest in the folder %s: looked for %s", path, strings.Join(manifestNames, ", "))
		}
		path = filepath.Join(path, manifestNames[i])
	}
	data, err := readFile(path, spec.MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	return &manifest{path: path, dir: filepath.Dir(path), data: data, json: filepath.Ext(path) == ".json"}, nil
}

// needsFolder says whether the app has functions that run from the uploaded folder.
func (m *manifest) needsFolder() bool {
	for _, f := range m.app.Functions {
		if f.Runtime == spec.RuntimeProcess {
			return true
		}
	}
	return false
}

// deployment is what deploy did.
type deployment struct {
	result   wire.ApplyResult
	artifact *client.Artifact // nil: nothing was packed
}

// deploy packs and uploads the folder beside the manifest where functions need
// it, and applies the manifest. A dry run sends only the folder's hash.
func (c *cli) deploy(ctx context.Context, to *client.Client, m *manifest, dryRun bool, exclude ...string) (deployment, error) {
	var d deployment
	if m.needsFolder() {
		if m.dir == "" {
			return d, usage("this app has process functions, whose files lie beside the manifest: give the manifest as a file, not as -")
		}
		var err error
		if d.artifact, err = client.Pack(m.dir, client.PackOptions{Exclude: exclude}); err != nil {
			return d, err
		}
	}
	options := client.ApplyOptions{JSON: m.json}
	if d.artifact != nil {
		options.Artifact = d.artifact.Sum
	}
	var err error
	if dryRun {
		d.result, err = to.Validate(ctx, m.app.Name, m.data, options)
		return d, err
	}
	if d.artifact != nil {
		existed, err := to.UploadArtifact(ctx, m.app.Name, d.artifact)
		if err != nil {
			return d, err
		}
		if !existed {
			c.notice("uploaded %s: %d files, %s packed", m.dir, d.artifact.Files, size(int64(len(d.artifact.Data))))
		}
	}
	d.result, err = to.Apply(ctx, m.app.Name, m.data, options)
	return d, err
}

func (c *cli) tellSkipped(d deployment) {
	if d.artifact != nil && len(d.artifact.Skipped) > 0 {
		shown := d.artifact.Skipped[:min(10, len(d.artifact.Skipped))]
		more := ""
		if len(shown) < len(d.artifact.Skipped) {
			more = ", …"
		}
		c.notice("left out: %s%s", strings.Join(shown, ", "), more)
	}
}
