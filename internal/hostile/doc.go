// Package hostile holds the tests of what must not harm a node: bad requests, bad
// functions, full disks, foreign folders and slips at the command line. Real nodes
// are given them, and have to say what was wrong and go on. It has no code but the
// tests'.
package hostile
