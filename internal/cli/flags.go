package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// durationFlag is a duration in the words of manifests.
type durationFlag time.Duration

func (d *durationFlag) Set(s string) error {
	if s == "0" {
		*d = 0
		return nil
	}
	v, err := spec.ParseDuration(s)
	if err != nil {
		return err
	}
	if v < 0 {
		return errors.New("must not be negative")
	}
	*d = durationFlag(v)
	return nil
}
func (d *durationFlag) String() string { return time.Duration(*d).String() }
func (d *durationFlag) Type() string   { return "duration" }

// sizeFlag is a number of bytes in the words of manifests.
type sizeFlag int64

func (b *sizeFlag) Set(s string) error {
	if s == "0" {
		*b = 0
		return nil
	}
	v, err := spec.ParseSize(s)
	if err != nil {
		return err
	}
	*b = sizeFlag(v)
	return nil
}
func (b *sizeFlag) String() string {
	if *b == 0 {
		return "0"
	}
	return spec.FormatSize(int64(*b))
}
func (b *sizeFlag) Type() string { return "size" }

const sharedMemoryUsage = "memory through which large objects reach functions' processes and come back, as in 1GiB, or off (0: the node's default)"

// sharedFlag is a size that can be turned off, which is then negative.
type sharedFlag int64

func (b *sharedFlag) Set(s string) error {
	if s == "off" {
		*b = -1
		return nil
	}
	return (*sizeFlag)(b).Set(s)
}

func (b *sharedFlag) String() string {
	if *b < 0 {
		return "off"
	}
	return (*sizeFlag)(b).String()
}
func (b *sharedFlag) Type() string { return "size" }

// splitObject reads BUCKET/KEY. Only the first slash counts: keys may hold more.
func splitObject(arg string) (spec.BucketName, spec.Key, error) {
	bucket, key, found := strings.Cut(arg, "/")
	if !found || bucket == "" || key == "" {
		return "", "", usage("%q does not name an object: use BUCKET/KEY, as in documents/a.txt", arg)
	}
	return spec.BucketName(bucket), spec.Key(key), nil
}

// splitPrefix reads BUCKET or BUCKET/PREFIX.
func splitPrefix(arg string) (spec.BucketName, string, error) {
	bucket, prefix, _ := strings.Cut(arg, "/")
	if bucket == "" {
		return "", "", usage("%q names no bucket: use BUCKET or BUCKET/PREFIX", arg)
	}
	return spec.BucketName(bucket), prefix, nil
}

// value opens what an argument stands for: @FILE its content, "-" or nothing the
// standard input, @@TEXT the text with one @, anything else itself.
func (c *cli) value(args []string) (io.ReadCloser, error) {
	switch {
	case len(args) == 0 && c.StdinTerminal:
		return nil, usage("no value: give it as an argument, as @FILE, or as - to type it in")
	case len(args) == 0 || args[0] == "-":
		return again(c.Stdin)
	case strings.HasPrefix(args[0], "@@"):
		return textValue(args[0][1:]), nil
	case strings.HasPrefix(args[0], "@"):
		f, err := os.Open(args[0][1:])
		if err != nil {
			return nil, usage("read the value: %w", err).WithHint("a value that starts with @ names a file; write @@ for the character itself")
		}
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return nil, errors.Join(usage("read the value: %s is a folder", args[0][1:]), f.Close())
		}
		return f, nil
	}
	return textValue(args[0]), nil
}

// againBytes is how much of what comes through a pipe is kept in memory, so that it
// can be sent again to another node.
const againBytes = 1 << 20

// again reads what is small to its end, and leaves what is large as it is.
func again(r io.Reader) (io.ReadCloser, error) {
	head, err := io.ReadAll(io.LimitReader(r, againBytes))
	if err != nil {
		return nil, fmt.Errorf("read the value: %w", err)
	}
	if len(head) < againBytes {
		return textValue(string(head)), nil
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(head), r)), nil
}

type stringValue struct{ *strings.Reader }

func (stringValue) Close() error { return nil }

func textValue(s string) io.ReadCloser { return stringValue{strings.NewReader(s)} }

func parseMeta(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	meta := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, found := strings.Cut(pair, "=")
		if !found || name == "" {
			return nil, usage("--meta %q: use name=value", pair)
		}
		meta[name] = value
	}
	return meta, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, usage("%w", err)
	}
	if int64(len(data)) > limit {
		return nil, usage("%s is larger than %s", path, size(limit))
	}
	return data, nil
}

func sortedList(names []string) string {
	return strings.Join(slices.Sorted(slices.Values(names)), ", ")
}
