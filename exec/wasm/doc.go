// Package wasm runs attempts in WebAssembly modules. A module is hosted by a
// process of its own, which is this program started again with other arguments
// (exec/wasm/host), never by the node itself: a module that spins can't be stopped
// from within. All that a process needs comes from exec/process: groups, queues,
// timeouts, the kill; functions with the same module and memory share hosts.
//
// Check looks at the module of a function before it is deployed.
//
// Imports spec, spec/module, exec, exec/process and exec/wasm/host.
package wasm
