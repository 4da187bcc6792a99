// Package python holds the Python SDK, one file of standard library Python, so
// that a node can put it into the path of the programs that it starts. Beside it is
// pheromone_client.py, a client of the HTTP API, for programs elsewhere.
//
// Imports nothing.
package python

import _ "embed"

// Source is pheromone.py.
//
//go:embed pheromone.py
var Source []byte
