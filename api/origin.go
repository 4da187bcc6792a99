package api

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/valyala/fasthttp"
)

// hostRules keeps web pages in a user's browser away from the API: by a name
// that they resolve to this machine (DNS rebinding), and by requests across
// origins. Both reach loopback, which is why loopback alone is no protection.
type hostRules struct {
	restricted bool // only loopback and the allowed hosts
	allowed    []string
}

func newHostRules(allowed []string, at net.Addr) hostRules {
	tcp, ok := at.(*net.TCPAddr)
	loopback := ok && tcp.IP.IsLoopback()
	rules := hostRules{restricted: loopback || len(allowed) > 0}
	for _, h := range allowed {
		rules.allowed = append(rules.allowed, strings.ToLower(h))
	}
	return rules
}

// check looks at the host that the request was really for: the one of an
// absolute request target goes before the Host header.
func (h hostRules) check(fh *fasthttp.RequestCtx) error {
	host := string(fh.Host())
	if name, ok := splitHost(host); h.restricted && (!ok || !h.known(name)) {
		return spec.Errorf(spec.CodeForbidden, "host %q is not served here: use localhost, 127.0.0.1 or [::1], or allow this host in the node's configuration", clip(host)).
			WithField("Host")
	}
	switch string(fh.Method()) {
	case fasthttp.MethodGet, fasthttp.MethodHead, fasthttp.MethodOptions:
		return nil
	}
	if site := string(fh.Request.Header.Peek("Sec-Fetch-Site")); site != "" && site != "same-origin" && site != "none" {
		return spec.Errorf(spec.CodeForbidden, "requests that change something are not taken from web pages of another origin (Sec-Fetch-Site: %s)", clip(site)).
			WithField("Sec-Fetch-Site")
	}
	origins := fh.Request.Header.PeekAll("Origin")
	for _, origin := range origins {
		if !h.sameOrigin(string(origin), host) {
			return spec.Errorf(spec.CodeForbidden, "requests that change something are not taken from web pages of another origin (Origin: %s)", clip(string(origin))).
				WithField("Origin")
		}
	}
	return nil
}

// sameOrigin compares host and port. The scheme may differ, as behind a proxy
// that ends TLS; there the host may be another one too, which is then allowed.
func (h hostRules) sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false // "null" among them
	}
	return strings.EqualFold(u.Host, host) || slices.Contains(h.allowed, strings.ToLower(u.Hostname()))
}

func (h hostRules) known(name string) bool {
	if name == "localhost" || slices.Contains(h.allowed, name) {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

// splitHost cuts the port off and the brackets of an IPv6 address.
func splitHost(host string) (name string, ok bool) {
	host = strings.ToLower(host)
	if v6, found := strings.CutPrefix(host, "["); found {
		name, port, closed := strings.Cut(v6, "]")
		return name, closed && (port == "" || port[0] == ':')
	}
	name, _, _ = strings.Cut(host, ":")
	return strings.TrimSuffix(name, "."), name != ""
}
