// Package host is the executor process of runtime wasm: it runs in a process of
// its own, started by a node from the node's own binary, and hosts one module. To
// the node it is a program that speaks the executor protocol on descriptor 3; to
// the module it offers the imports of docs/wasm.md, over which the same frames
// travel.
//
// The module is compiled once for a node: what comes of it is kept in a folder of
// the node, by the module's hash, and later hosts load it from there. Each attempt
// runs in an instance that has no other one at the time. An instance that ends it
// in good order waits for the next; one that traps, exits or breaks its interface
// is gone, and so is nothing else.
//
// A module that spins can't be stopped from within: nothing here interrupts
// compiled code, which keeps calls and loops fast. The node kills the process. Until
// then the other attempts go on, since there are more threads than attempts, and
// memory is collected only when no attempt runs or when much of it is garbage.
//
// Imports client/fn/protocol and spec/module.
package host
