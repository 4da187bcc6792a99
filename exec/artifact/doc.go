// Package artifact keeps the folders that users upload: a tar compressed with
// zstd, named by the SHA-256 of its bytes. A folder of archives lies beside a
// folder of what was extracted from them, each made under a temporary name and
// renamed into place when it is complete, so that what has its name is whole.
//
// Archives come from outside: their size, the number, size and depth of their
// entries and their ratio of compression are bounded, and nothing is written
// outside of the folder they are extracted to.
//
// Imports spec.
package artifact
