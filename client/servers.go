package client

import (
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// server is one node as the client knows it. What is not fixed is guarded by the
// mutex of servers.
type server struct {
	url   string // without a slash at its end
	named bool   // by the program, not learned from another node

	node      string    // its name, once it has told that itself
	failures  int       // in a row
	avoid     time.Time // others come first until then
	notBefore time.Time // it asked to be left alone until then
}

// servers is the choice of where to send a request.
type servers struct {
	mu struct {
		sync.Mutex
		all     []*server // those named come first, in their order
		current *server   // answered last what has no place of its own
		leaders []*server // by slot; nil, or nil at a slot: not known
		reached bool      // one of them has answered at all
	}
}

const (
	avoidFirst = 100 * time.Millisecond // after one failure, and twice that after the next
	avoidMost  = 10 * time.Second
)

// parseServers reads a list of server URLs, separated by commas.
func parseServers(list string) ([]*server, error) {
	var all []*server
	for text := range strings.SplitSeq(list, ",") {
		base, err := parseServer(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(s *server) bool { return s.url == base }) {
			all = append(all, &server{url: base, named: true})
		}
	}
	return all, nil
}

func parseServer(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", badURL(text, "it does not parse")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", badURL(text, "it must start with http:// or https://")
	case u.Host == "":
		return "", badURL(text, "it names no host")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return "", badURL(text, "it must be no more than scheme, host, port and perhaps a path")
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func badURL(serverURL, reason string) error {
	return spec.Errorf(spec.CodeInvalid, "server URL %q: %s", serverURL, reason).
		WithHint("a server URL looks like " + DefaultURL + "; several are separated by commas")
}

// choose picks the server for r: the leader of its slot, else the one that
// answered last, else the next one that has not failed just now. Before notBefore
// it does not want to be asked again.
func (s *servers) choose(r *request) (at *server, notBefore time.Time) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.placed && s.mu.leaders != nil {
		if leader := s.mu.leaders[r.slot]; leader != nil && !leader.avoid.After(now) {
			return leader, leader.notBefore
		}
	}
	start := max(0, slices.Index(s.mu.all, s.mu.current))
	for i := range s.mu.all {
		candidate := s.mu.all[(start+i)%len(s.mu.all)]
		switch {
		case r.ofNamed && !candidate.named:
		case !candidate.avoid.After(now):
			return candidate, candidate.notBefore
		case at == nil || candidate.avoid.Before(at.avoid):
			at = candidate
		}
	}
	return at, at.notBefore
}

// inOrder lists all servers, those first that have not failed just now.
func (s *servers) inOrder() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.mu.all)
	slices.SortStableFunc(all, func(a, b *server) int { return a.avoid.Compare(b.avoid) })
	list := make([]string, 0, len(all))
	for _, at := range all {
		list = append(list, at.url)
	}
	return list
}

// answered notes that at has done what it was asked for.
func (s *servers) answered(at *server, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.reached = true
	at.failures, at.avoid, at.notBefore = 0, time.Time{}, time.Time{}
	if !r.placed || s.mu.leaders == nil {
		s.mu.current = at
	}
}

// refused notes that at has answered that it can't take a request just now.
func (s *servers) refused(at *server, r *request, retryAfter time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.reached = true
	until := time.Now().Add(max(retryAfter, avoidFirst))
	at.avoid, at.notBefore = until, time.Now().Add(retryAfter)
	if r.placed && s.mu.leaders != nil && s.mu.leaders[r.slot] == at {
		s.mu.leaders[r.slot] = nil
	}
}

// lost notes that at does not answer, or that a connection to it broke. What is
// known of its place in the cluster may be wrong from now on.
func (s *servers) lost(at *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at.avoid = time.Now().Add(min(avoidMost, avoidFirst<<min(at.failures, 10)))
	at.failures++
	at.node = ""
	for slot, leader := range s.mu.leaders {
		if leader == at {
			s.mu.leaders[slot] = nil
		}
	}
}

// answeredOnce says that the request came to a server, whatever it said.
func (s *servers) answeredOnce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.reached = true
}

func (s *servers) reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.reached
}

// several says whether there is another one to ask than the one that is asked.
func (s *servers) several() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.all) > 1
}

func (s *servers) urls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]string, 0, len(s.mu.all))
	for _, at := range s.mu.all {
		list = append(list, at.url)
	}
	return list
}

// knowing returns the server of a URL, and whether it has told its name.
func (s *servers) knowing(url string) (node string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.mu.all {
		if at.url == url {
			return at.node, at.node != ""
		}
	}
	return "", false
}

// learned takes over what a node told of its cluster: names says which node is
// behind each URL that was found to be one of it, leaders who leads each slot.
func (s *servers) learned(names map[string]string, leaders map[spec.Slot]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.all = slices.DeleteFunc(s.mu.all, func(at *server) bool {
		_, still := names[at.url]
		return !at.named && !still
	})
	byName := map[string]*server{}
	for _, at := range s.mu.all {
		if at.node = names[at.url]; at.node != "" && byName[at.node] == nil {
			byName[at.node] = at
		}
	}
	for _, u := range sortedKeys(names) {
		if node := names[u]; byName[node] == nil {
			byName[node] = &server{url: u, node: node}
			s.mu.all = append(s.mu.all, byName[node])
		}
	}
	s.mu.leaders = nil
	if len(s.mu.all) == 1 {
		return // there is nothing to choose
	}
	s.mu.leaders = make([]*server, spec.Slots)
	for slot, node := range leaders {
		s.mu.leaders[slot] = byName[node]
	}
}
