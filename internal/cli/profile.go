package cli

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/pheromone-run/pheromone/client"
)

// profiles is the user's configuration file, pheromone/config.yaml in
// XDG_CONFIG_HOME or ~/.config.
type profiles struct {
	// Default names the profile that is used when no other is asked for.
	Default  string             `yaml:"default"`
	Profiles map[string]profile `yaml:"profiles"`
}

type profile struct {
	Server string `yaml:"server"`
}

// serverURL is --server, PHEROMONE_SERVER, the server of the profile, or the
// default, in that order.
func (c *cli) serverURL() (string, error) {
	name := c.profile
	switch {
	case c.server != "":
		return c.server, nil
	case name == "" && c.Getenv("PHEROMONE_SERVER") != "":
		return c.Getenv("PHEROMONE_SERVER"), nil
	case name == "":
		name = c.Getenv("PHEROMONE_PROFILE")
	}
	file := c.profilesFile()
	var known profiles
	if file != "" {
		if _, err := os.Stat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
			data, err := readFile(file, 1<<20)
			if err != nil {
				return "", err
			}
			if err := yaml.UnmarshalWithOptions(data, &known, yaml.Strict()); err != nil {
				return "", usage("%s: %w", file, err)
			}
		}
	}
	if name == "" {
		name = known.Default
	}
	if name == "" {
		return client.DefaultURL, nil
	}
	p, ok := known.Profiles[name]
	if !ok || p.Server == "" {
		return "", usage("profile %q has no server in %s", name, file).
			WithHint("profiles there: " + orDash(strings.Join(slices.Sorted(maps.Keys(known.Profiles)), ", ")))
	}
	return p.Server, nil
}

func (c *cli) profilesFile() string {
	if dir := c.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "pheromone", "config.yaml")
	}
	if home := c.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "pheromone", "config.yaml")
	}
	return ""
}
