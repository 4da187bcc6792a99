// Package module says which WebAssembly modules runtime wasm takes: what they may
// import, what they have to export, and how large they may be. docs/wasm.md has it
// in words. Check reads the headers of a module, from its imports to its exports,
// and none of its code; it is cheap and bounded, so that a node can do it for
// whatever is deployed.
//
// Imports the standard library.
package module
