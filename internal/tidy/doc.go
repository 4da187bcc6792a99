// Package tidy holds the rules of the house as tests: which package may import
// which, how long files and functions may be, that every package tells its story,
// and what has no place in tests and documents.
package tidy
