package client

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"
)

// DefaultURL is where a node listens unless it is told otherwise.
const DefaultURL = "http://127.0.0.1:7070"

// Client talks to a node, or to the nodes of a cluster. Make it once and share it:
// it keeps connections open.
type Client struct {
	base      string // of the first server that was named
	servers   servers
	discovery discovery
	http      *http.Client
	retry     Retry
	maxAnswer int64
	userAgent string
}

// Option changes a Client as it is made.
type Option func(*Client)

// WithRetry sets how calls are repeated; zero fields keep their default.
func WithRetry(r Retry) Option {
	return func(c *Client) { c.retry = r.orElse(c.retry) }
}

// WithoutDiscovery has the client send to the servers that New names and to no
// others: where those are the only ones that can be reached, as behind a proxy, or
// where it matters which node answers.
func WithoutDiscovery() Option { return func(c *Client) { c.discovery.off = true } }

// WithHTTPClient sends requests through h, for transports of one's own. Its
// Timeout should be zero, since waits and watches take long; use contexts.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// WithMaxAnswer bounds the bytes of an answer that is held in memory: an object
// of Get, the outputs of Result, a page of a list. The default is 512 MiB. What
// is larger can be read with GetTo.
func WithMaxAnswer(bytes int64) Option { return func(c *Client) { c.maxAnswer = bytes } }

// WithUserAgent names the program in the server's logs.
func WithUserAgent(agent string) Option { return func(c *Client) { c.userAgent = agent } }

// New makes a client of the node at serverURL, as in http://127.0.0.1:7070, or of
// several, separated by commas. It does not connect: the first call does, to the
// first of them that answers. Of the nodes of a cluster one is enough to name, as
// long as it answers when the client starts.
func New(serverURL string, options ...Option) (*Client, error) {
	all, err := parseServers(serverURL)
	if err != nil {
		return nil, err
	}
	c := &Client{
		base:      all[0].url,
		http:      &http.Client{Transport: newTransport(), CheckRedirect: refuseRedirect},
		retry:     defaultRetry,
		maxAnswer: 512 << 20,
		userAgent: "pheromone-go",
	}
	c.servers.mu.all = all
	c.discovery.client = c
	c.discovery.ctx, c.discovery.cancel = context.WithCancel(context.Background())
	// What is behind a path is a proxy's matter: the nodes' own URLs may lead nowhere.
	for _, at := range all {
		if u, err := url.Parse(at.url); err != nil || u.Path != "" {
			c.discovery.off = true
		}
	}
	for _, o := range options {
		o(c)
	}
	return c, nil
}

// URL returns the first of the URLs that New was given.
func (c *Client) URL() string { return c.base }

// Servers returns the URLs that the client sends requests to: those that New was
// given, and those of the cluster's other nodes that it has found.
func (c *Client) Servers() []string { return c.servers.urls() }

// Close lets go of idle connections. Calls under way are not ended.
func (c *Client) Close() {
	c.discovery.close()
	c.http.CloseIdleConnections()
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
