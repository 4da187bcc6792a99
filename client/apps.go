package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// ApplyOptions goes with a manifest.
type ApplyOptions struct {
	// Artifact is the Sum of an uploaded folder; process functions need one.
	Artifact string
	// JSON says that the manifest is JSON, not YAML.
	JSON bool
	// IdempotencyKey names what is applied, so that it can be applied again from
	// elsewhere without undoing what others have applied since; default: made up.
	IdempotencyKey string
}

// Apply deploys a manifest and tells what that changed. A bad manifest changes
// nothing: the error's *spec.Error has CodeBadManifest and every fault.
func (c *Client) Apply(ctx context.Context, app spec.AppName, manifest []byte, o ApplyOptions) (wire.ApplyResult, error) {
	return c.apply(ctx, "apply "+string(app), app, manifest, o, false)
}

// Validate checks a manifest against the deployed version of the app and tells
// what Apply would change.
func (c *Client) Validate(ctx context.Context, app spec.AppName, manifest []byte, o ApplyOptions) (wire.ApplyResult, error) {
	return c.apply(ctx, "validate "+string(app), app, manifest, o, true)
}

func (c *Client) apply(ctx context.Context, op string, app spec.AppName, manifest []byte, o ApplyOptions, dryRun bool) (wire.ApplyResult, error) {
	query := url.Values{}
	if dryRun {
		query.Set("dry_run", "1")
	}
	if o.Artifact != "" {
		query.Set("artifact", o.Artifact)
	}
	header := http.Header{"Content-Type": {"application/yaml"}}
	if !dryRun {
		header.Set(wire.HeaderIdempotencyKey, orMade(o.IdempotencyKey))
	}
	if o.JSON {
		header.Set("Content-Type", "application/json")
	}
	var result wire.ApplyResult
	_, err := c.call(ctx, request{
		op: op, method: http.MethodPut, path: route("apps", string(app)), query: query, header: header,
		body: newBytes(manifest), repeatable: true, // what comes again under the same key changes nothing
	}, &result)
	return result, err
}

// Apps lists the deployed apps.
func (c *Client) Apps(ctx context.Context) ([]wire.App, error) {
	var list wire.AppList
	_, err := c.call(ctx, get("list apps", route("apps"), nil), &list)
	return list.Items, err
}

// App returns a version of an app with its spec and manifest; version 0 is the
// newest.
func (c *Client) App(ctx context.Context, app spec.AppName, version uint64) (wire.App, error) {
	query := url.Values{}
	if version > 0 {
		query.Set("version", strconv.FormatUint(version, 10))
	}
	var out wire.App
	_, err := c.call(ctx, get("get app "+string(app), route("apps", string(app)), query), &out)
	return out, err
}

// AppVersions lists the versions of an app, newest first.
func (c *Client) AppVersions(ctx context.Context, app spec.AppName) ([]wire.App, error) {
	var list wire.AppList
	_, err := c.call(ctx, get("list versions of "+string(app), route("apps", string(app), "versions"), nil), &list)
	return list.Items, err
}

// Rollback makes an earlier version's manifest the newest version of the app.
func (c *Client) Rollback(ctx context.Context, app spec.AppName, version uint64) (wire.ApplyResult, error) {
	var result wire.ApplyResult
	_, err := c.call(ctx, request{
		op: "roll back " + string(app), method: http.MethodPost, path: route("apps", string(app), "rollback"),
		query:      url.Values{"version": {strconv.FormatUint(version, 10)}},
		header:     http.Header{wire.HeaderIdempotencyKey: {orMade("")}},
		repeatable: true, // what comes again under the same key changes nothing
	}, &result)
	return result, err
}

// DeleteApp deletes an app with its objects and sessions.
func (c *Client) DeleteApp(ctx context.Context, app spec.AppName) error {
	_, err := c.call(ctx, request{op: "delete app " + string(app), method: http.MethodDelete, path: route("apps", string(app))}, nil)
	return err
}

// UploadArtifact sends a packed folder, unless the server has it already.
func (c *Client) UploadArtifact(ctx context.Context, app spec.AppName, a *Artifact) (existed bool, err error) {
	op, at := "upload the folder of "+string(app), route("apps", string(app), "artifacts", a.Sum)
	if resp, err := c.do(ctx, request{op: op, method: http.MethodHead, path: at, repeatable: true}); err == nil {
		return true, resp.Body.Close()
	}
	resp, err := c.do(ctx, request{
		op: op, method: http.MethodPut, path: at,
		header: http.Header{"Content-Type": {"application/zstd"}},
		body:   newBytes(a.Data), repeatable: true, // its name is its hash
	})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}

// Ready returns nil once one of the nodes that New was given takes work.
func (c *Client) Ready(ctx context.Context) error {
	resp, err := c.do(ctx, request{op: "ask if the node is ready", method: http.MethodGet, path: "/readyz", ofNamed: true})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func get(op, path string, query url.Values) request {
	return request{op: op, method: http.MethodGet, path: path, query: query, repeatable: true}
}
