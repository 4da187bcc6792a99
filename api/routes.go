package api

import "net/http"

// route is one thing that can be asked for.
type route struct {
	method  string
	pattern string
	handle  func(*request) error
	query   []string // the parameters it knows
	body    bodyRule
	// lasting marks what may go on for as long as the client likes.
	lasting bool
	// early marks what the node can tell or do before Gate lets requests in.
	early bool
}

const (
	nodePath    = "/v1/cluster/nodes/{node}"
	appPath     = "/v1/apps/{app}"
	objectsPath = appPath + "/buckets/{bucket}/objects"
	sessionPath = appPath + "/sessions/{session}"
	insidePath  = sessionPath + "/buckets/{bucket}/objects"
)

// routes lists the whole API.
func routes() []*route {
	return []*route{
		{method: http.MethodGet, pattern: "/", handle: getIndex, early: true},
		{method: http.MethodGet, pattern: "/livez", handle: getLive, early: true},
		{method: http.MethodGet, pattern: "/readyz", handle: getReady, early: true},
		{method: http.MethodGet, pattern: "/metrics", handle: getMetrics},
		{method: http.MethodGet, pattern: profilesPath, handle: listProfiles, early: true},
		{method: http.MethodGet, pattern: profilesPath + "/{profile}", handle: getProfile, query: []string{"seconds", "debug"}, early: true},
		{method: http.MethodGet, pattern: "/v1/version", handle: getVersion, early: true},
		{method: http.MethodGet, pattern: "/v1/cluster", handle: getCluster, early: true},
		{method: http.MethodGet, pattern: "/v1/cluster/shards", handle: getShards, early: true},
		{method: http.MethodGet, pattern: "/v1/cluster/shards/{shard}/hash", handle: getShardHash},
		{method: http.MethodGet, pattern: "/v1/cluster/nodes", handle: getNodes, early: true},
		{method: http.MethodPost, pattern: "/v1/cluster/init", handle: initCluster, body: smallBody, early: true},
		{method: http.MethodPost, pattern: "/v1/cluster/join", handle: joinCluster, body: smallBody, early: true},
		{method: http.MethodPost, pattern: "/v1/cluster/rebalance", handle: rebalance},
		{method: http.MethodPost, pattern: nodePath + "/drain", handle: drainNode},
		{method: http.MethodPost, pattern: nodePath + "/undrain", handle: undrainNode},
		{method: http.MethodDelete, pattern: nodePath, handle: removeNode, query: []string{"force"}},

		{method: http.MethodGet, pattern: "/v1/apps", handle: listApps},
		{method: http.MethodPut, pattern: appPath, handle: putApp, body: manifestBody, query: []string{"dry_run", "artifact"}},
		{method: http.MethodGet, pattern: appPath, handle: getApp, query: []string{"version"}},
		{method: http.MethodDelete, pattern: appPath, handle: deleteApp},
		{method: http.MethodGet, pattern: appPath + "/versions", handle: getVersions},
		{method: http.MethodPost, pattern: appPath + "/rollback", handle: rollBack, query: []string{"version"}},
		{method: http.MethodPut, pattern: appPath + "/artifacts/{sha256}", handle: putArtifact, body: artifactBody},
		{method: http.MethodHead, pattern: appPath + "/artifacts/{sha256}", handle: headArtifact},
		{method: http.MethodGet, pattern: appPath + "/logs", handle: getLogs, lasting: true, query: []string{"function", "tail", "follow"}},

		{method: http.MethodGet, pattern: objectsPath, handle: listObjects, query: []string{"prefix", "after", "limit"}},
		{method: http.MethodPut, pattern: objectsPath + "/{key}", handle: putObject, body: objectBody, query: []string{"ttl", "deliver_after", "session_timeout"}},
		{method: http.MethodGet, pattern: objectsPath + "/{key}", handle: getObject, query: []string{"stale"}},
		{method: http.MethodDelete, pattern: objectsPath + "/{key}", handle: deleteObject},
		{method: http.MethodGet, pattern: appPath + "/buckets/{bucket}/watch", handle: watch, lasting: true, query: []string{"prefix", "from"}},

		{method: http.MethodPost, pattern: appPath + "/functions/{function}/invoke", handle: invoke, body: objectBody, query: []string{"wait", "until", "session_timeout"}},

		{method: http.MethodGet, pattern: appPath + "/sessions", handle: listSessions, query: []string{"status", "function", "after", "limit"}},
		{method: http.MethodGet, pattern: sessionPath, handle: getSession},
		{method: http.MethodDelete, pattern: sessionPath, handle: purge},
		{method: http.MethodGet, pattern: sessionPath + "/result", handle: getResult, query: []string{"wait", "until"}},
		{method: http.MethodGet, pattern: sessionPath + "/history", handle: getHistory, query: []string{"after", "limit"}},
		{method: http.MethodPost, pattern: sessionPath + "/cancel", handle: cancelSession},
		{method: http.MethodPost, pattern: sessionPath + "/rerun", handle: rerun, query: []string{"from"}},

		{method: http.MethodGet, pattern: insidePath, handle: listObjects, query: []string{"prefix", "after", "limit"}},
		{method: http.MethodPut, pattern: insidePath + "/{key}", handle: putObject, body: objectBody, query: []string{"deliver_after", "session_timeout"}},
		{method: http.MethodGet, pattern: insidePath + "/{key}", handle: getObject},
	}
}
