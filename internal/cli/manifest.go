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
	missing  []spec.Fault // warnings of files that the folder lacks, which only this side can see
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
	return m, m.checkCommands()
}

func (c *cli) openManifest(path string) (*manifest, error) {
	if path == "" {
		return nil, usage("no manifest: name one, as in `pheromone apply app.yaml`")
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
		if f.Runtime == spec.RuntimeProcess || f.Runtime == spec.RuntimeWasm {
			return true
		}
	}
	return false
}

// pack packs the folder beside the manifest; nil if no function needs it.
func (m *manifest) pack(exclude ...string) (*client.Artifact, error) {
	if !m.needsFolder() {
		return nil, nil
	}
	if m.dir == "" {
		return nil, usage("this app has functions whose files lie beside the manifest: give the manifest as a file, not as -")
	}
	return client.Pack(m.dir, client.PackOptions{Exclude: exclude})
}

// deploy uploads the folder, if there is one, and applies the manifest. A dry run
// sends only the folder's hash.
func (c *cli) deploy(ctx context.Context, to *client.Client, m *manifest, folder *client.Artifact, dryRun bool) (wire.ApplyResult, error) {
	options := client.ApplyOptions{JSON: m.json}
	if folder != nil {
		options.Artifact = folder.Sum
	}
	if dryRun {
		result, err := to.Validate(ctx, m.app.Name, m.data, options)
		return m.withMissing(result), err
	}
	if folder != nil {
		existed, err := to.UploadArtifact(ctx, m.app.Name, folder)
		if err != nil {
			return wire.ApplyResult{}, err
		}
		if !existed {
			c.notice("uploaded %s: %s, %s packed", m.dir, count(folder.Files, "file"), size(int64(len(folder.Data))))
		}
	}
	result, err := to.Apply(ctx, m.app.Name, m.data, options)
	return m.withMissing(result), err
}

func (m *manifest) withMissing(r wire.ApplyResult) wire.ApplyResult {
	r.Warnings = append(slices.Clip(m.missing), r.Warnings...)
	return r
}

func (c *cli) tellSkipped(folder *client.Artifact) {
	if folder == nil || len(folder.Skipped) == 0 {
		return
	}
	shown, more := folder.Skipped[:min(10, len(folder.Skipped))], ""
	if len(shown) < len(folder.Skipped) {
		more = ", …"
	}
	c.notice("left out: %s%s", strings.Join(shown, ", "), more)
}
