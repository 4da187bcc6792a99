package api

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config bounds what the API takes and how long it waits. A zero field stands
// for its default, so that Config{} is a complete configuration.
type Config struct {
	// Version is what GET /v1/version answers; default "dev".
	Version string
	// AllowedHosts are host names, without port, by which the API may be
	// reached besides localhost. On a loopback listener every other Host is
	// refused, since a name that resolves to 127.0.0.1 is how a web page in
	// the user's browser would get here; elsewhere every Host is taken unless
	// some are named.
	AllowedHosts []string

	MaxObjectBytes int64 // default 256 MiB; an app's own limit may be lower
	MaxHeaderBytes int   // request line and headers; default 16 KiB

	MaxStreams int // watches and followed logs at a time; default 1,024
	MaxWaits   int // requests that wait for a session at a time; default 8,192

	HeaderTimeout  time.Duration // to read the request line, headers and a small body; default 10s
	UploadTimeout  time.Duration // at most to read a large body, which must keep up 256 KiB/s; default 15m
	RequestTimeout time.Duration // for the node to do what was asked, waits excepted; default 30s
	WriteTimeout   time.Duration // for the client to take one piece of an answer; default 30s
	IdleTimeout    time.Duration // of a connection between two requests; default 2m
	Heartbeat      time.Duration // between comments on a quiet event stream; default 15s

	// Gate, if set, is asked before each request but those about the node and the
	// cluster themselves: its error is the answer.
	Gate func() error

	// Registry takes the API's metrics and is what GET /metrics renders;
	// default an own one.
	Registry *prometheus.Registry
}

// Bounds that are the same everywhere.
const (
	maxManifestBytes = 1 << 20
	maxArtifactBytes = 256 << 20
	maxConns         = 16 << 10         // open connections
	maxWait          = 10 * time.Minute // the largest ?wait=
)

// Validate says everything that is wrong with c.
func (c Config) Validate() error {
	var faults []error
	positive := func(name string, negative bool) {
		if negative {
			faults = append(faults, fmt.Errorf("api: %s is negative: leave it out for its default", name))
		}
	}
	positive("MaxObjectBytes", c.MaxObjectBytes < 0)
	positive("MaxHeaderBytes", c.MaxHeaderBytes < 0)
	positive("MaxStreams", c.MaxStreams < 0)
	positive("MaxWaits", c.MaxWaits < 0)
	positive("HeaderTimeout", c.HeaderTimeout < 0)
	positive("UploadTimeout", c.UploadTimeout < 0)
	positive("RequestTimeout", c.RequestTimeout < 0)
	positive("WriteTimeout", c.WriteTimeout < 0)
	positive("IdleTimeout", c.IdleTimeout < 0)
	positive("Heartbeat", c.Heartbeat < 0)
	if c.MaxHeaderBytes > 0 && c.MaxHeaderBytes < minHeaderBytes {
		faults = append(faults, fmt.Errorf("api: MaxHeaderBytes is %d: a request with the longest key needs %d", c.MaxHeaderBytes, minHeaderBytes))
	}
	for _, h := range c.AllowedHosts {
		if name, _ := splitHost(h); h == "" || name != strings.ToLower(h) || strings.ContainsAny(h, "/*@ ") {
			faults = append(faults, fmt.Errorf("api: allowed host %q is no host name: write it without scheme, port and wildcard, as in console.example.org", h))
		}
	}
	return errors.Join(faults...)
}

// minHeaderBytes leaves room for the longest key with every byte
// percent-encoded, and some headers.
const minHeaderBytes = 4 << 10

// minUploadRate is what a client must send, in bytes a second on average.
const minUploadRate = 256 << 10

func (c Config) withDefaults() Config {
	setDefault(&c.Version, "dev")
	setDefault(&c.MaxObjectBytes, 256<<20)
	setDefault(&c.MaxHeaderBytes, 16<<10)
	setDefault(&c.MaxStreams, 1<<10)
	setDefault(&c.MaxWaits, 8<<10)
	setDefault(&c.HeaderTimeout, 10*time.Second)
	setDefault(&c.UploadTimeout, 15*time.Minute)
	setDefault(&c.RequestTimeout, 30*time.Second)
	setDefault(&c.WriteTimeout, 30*time.Second)
	setDefault(&c.IdleTimeout, 2*time.Minute)
	setDefault(&c.Heartbeat, 15*time.Second)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// uploadTime is how long the body of size bytes (-1: not known) may take.
func (c *Config) uploadTime(size int64) time.Duration {
	if size < 0 {
		return c.HeaderTimeout + c.UploadTimeout
	}
	seconds := min(size/minUploadRate+1, int64(c.UploadTimeout/time.Second)+1) // before it could overflow
	return c.HeaderTimeout + min(time.Duration(seconds)*time.Second, c.UploadTimeout)
}
