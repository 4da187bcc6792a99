// Package cli is the command line of Pheromone: one file for each command or
// family of commands, on top of package client.
//
// Main parses the arguments (root.go), a command asks the server through the
// client, and what comes back is shown (output.go) as a table for people or as
// the API's own messages in JSON or YAML for programs. Results go to standard
// output, everything else to standard error; notices and progress only when that
// is a terminal. Text that comes from data is made harmless before it reaches a
// terminal or a table (harmless.go). Errors become an exit code and a message in
// one place (exit.go).
//
// Deps holds everything that the package takes from its process, so that tests
// replace it: the streams, the environment, the clock, and the function that
// starts a node.
//
// Imports client, spec, spec/wire and internal/failpoint. It does not import node: cmd/pheromone
// hands the node in.
package cli
