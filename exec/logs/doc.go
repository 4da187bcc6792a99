// Package logs keeps what functions print: for each app a file of JSON lines,
// bounded by rotation, and live followers.
//
// Append is given to the runtimes as their log. It writes to the app's file and
// passes the record to the app's followers; a follower that is slow misses
// records and is told how many. A file that can't be written is reported once and
// costs the records, never the function.
//
// Imports spec and exec.
package logs
