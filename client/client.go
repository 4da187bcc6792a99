package client

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// DefaultURL is where a node listens unless it is told otherwise.
const DefaultURL = "http://127.0.0.1:7070"

// Client talks to the nodes behind one URL. Make it once and share it: it keeps
// connections open.
type Client struct {
	base      string // without a slash at its end
	http      *http.Client
	retry     Retry
	maxAnswer int64
	userAgent string
}

// Retry bounds how often a call that is safe to repeat is sent. The wait before
// attempt n+1 is Backoff·2^(n-1), at most MaxBackoff, with jitter over its upper
// half, and never less than the server's Retry-After asks for.
type Retry struct {
	MaxAttempts int           // default 6; 1 sends once
	Backoff     time.Duration // default 50 ms
	MaxBackoff  time.Duration // default 2 s
}

// Option changes a Client as it is made.
type Option func(*Client)

// WithHTTPClient sends requests through h, for transports of one's own. Its
// Timeout should be zero, since waits and watches take long; use contexts.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// WithRetry sets how often calls are repeated; zero fields keep their default.
func WithRetry(r Retry) Option {
	return func(c *Client) {
		if r.MaxAttempts > 0 {
			c.retry.MaxAttempts = r.MaxAttempts
		}
		if r.Backoff > 0 {
			c.retry.Backoff = r.Backoff
		}
		if r.MaxBackoff > 0 {
			c.retry.MaxBackoff = r.MaxBackoff
		}
	}
}

// WithMaxAnswer bounds the bytes of an answer that is held in memory: an object
// of Get, the outputs of Result, a page of a list. The default is 512 MiB. What
// is larger can be read with GetTo.
func WithMaxAnswer(bytes int64) Option { return func(c *Client) { c.maxAnswer = bytes } }

// WithUserAgent names the program in the server's logs.
func WithUserAgent(agent string) Option { return func(c *Client) { c.userAgent = agent } }

// New makes a client of the server at serverURL, as in http://127.0.0.1:7070. It
// does not connect: the first call does.
func New(serverURL string, options ...Option) (*Client, error) {
	u, err := url.Parse(serverURL)
	if err != nil {
		return nil, badURL(serverURL, "it does not parse")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, badURL(serverURL, "it must start with http:// or https://")
	case u.Host == "":
		return nil, badURL(serverURL, "it names no host")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, badURL(serverURL, "it must be no more than scheme, host, port and perhaps a path")
	}
	c := &Client{
		base:      u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"),
		http:      &http.Client{Transport: newTransport(), CheckRedirect: refuseRedirect},
		retry:     Retry{MaxAttempts: 6, Backoff: 50 * time.Millisecond, MaxBackoff: 2 * time.Second},
		maxAnswer: 512 << 20,
		userAgent: "pheromone-go",
	}
	for _, o := range options {
		o(c)
	}
	return c, nil
}

// URL returns the server's URL.
func (c *Client) URL() string { return c.base }

// Close lets go of idle connections. Calls under way are not ended.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func badURL(serverURL, reason string) error {
	return spec.Errorf(spec.CodeInvalid, "server URL %q: %s", serverURL, reason).
		WithHint("a server URL looks like " + DefaultURL)
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
		// Objects come as they were put; decoding them on the way would hide their size.
		DisableCompression: true,
	}
}

// refuseRedirect keeps a write from being sent on as a GET to some other place.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
