package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"mime"
	"net/http"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func listApps(r *request) error {
	apps, err := r.s.backend.ListApps(r.ctx)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, wire.AppList{Items: orEmpty(apps)})
}

func putApp(r *request) error {
	options := ApplyOptions{Artifact: r.query.get("artifact")}
	if r.query.has("artifact") {
		if err := validSum(options.Artifact); err != nil {
			return inField("artifact", err)
		}
	}
	var err error
	if options.DryRun, err = r.query.flag("dry_run"); err != nil {
		return err
	}
	if options.IdempotencyKey, err = r.idempotencyKey(); err != nil {
		return err
	}
	isJSON, err := r.manifestType()
	if err != nil {
		return err
	}
	manifest, err := r.body.all()
	if err != nil {
		return err
	}
	if err := checkManifest(manifest, isJSON); err != nil {
		return err
	}
	result, err := r.s.backend.Apply(r.ctx, r.app, manifest, options)
	if err != nil {
		return err
	}
	result.Changes = orEmpty(result.Changes)
	return r.json(http.StatusOK, result)
}

// manifestType says whether the body is declared to be JSON; YAML has JSON in it,
// so anything else that is allowed is read as YAML.
func (r *request) manifestType() (isJSON bool, err error) {
	declared, err := r.contentType()
	if err != nil || declared == "" {
		return false, err
	}
	media, _, err := mime.ParseMediaType(declared)
	switch {
	case err != nil:
	case media == "application/json":
		return true, nil
	case media == "application/yaml", media == "text/yaml", media == "application/x-yaml", media == "text/x-yaml":
		return false, nil
	}
	return false, spec.Errorf(spec.CodeUnsupported, "content type %q is no manifest: send Content-Type application/yaml or application/json", clip(declared)).
		WithField("Content-Type")
}

// checkManifest refuses what can't be a manifest before anything parses it.
func checkManifest(manifest []byte, isJSON bool) error {
	text := bytes.TrimLeft(manifest, " \t\r\n")
	switch {
	case len(text) == 0:
		return spec.Errorf(spec.CodeInvalid, "the body is empty: send the manifest as YAML or JSON")
	case text[0] < ' ' || text[0] == 0x7f:
		return spec.Errorf(spec.CodeUnsupported, "the body starts with byte 0x%02x and is no text: send the manifest as YAML or JSON, not compressed", text[0])
	case isJSON:
		return checkJSON(manifest)
	}
	return nil
}

// checkJSON finds the place where text stops to be JSON.
func checkJSON(text []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(text, &whole)
	if err == nil {
		return nil
	}
	fault := spec.Fault{Line: 1, Column: 1, Message: "this is no JSON: " + err.Error()}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := text[:max(0, min(int(syntax.Offset)-1, len(text)))]
		fault.Line += bytes.Count(before, []byte{'\n'})
		fault.Column = len(before) - bytes.LastIndexByte(before, '\n')
	}
	e := spec.Errorf(spec.CodeBadManifest, "the manifest is declared as JSON and is none: line %d, column %d: %v", fault.Line, fault.Column, err)
	e.Faults = []spec.Fault{fault}
	return e
}

func getApp(r *request) error {
	version, err := r.query.number("version", 0, 1, math.MaxUint64)
	if err != nil {
		return err
	}
	app, err := r.s.backend.GetApp(r.ctx, r.app, version)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, app)
}

func getVersions(r *request) error {
	versions, err := r.s.backend.AppVersions(r.ctx, r.app)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, wire.AppList{Items: orEmpty(versions)})
}

func rollBack(r *request) error {
	if !r.query.has("version") {
		return spec.Errorf(spec.CodeInvalid, "no version to roll back to: add ?version=, as …/versions lists them").WithField("version")
	}
	version, err := r.query.number("version", 0, 1, math.MaxUint64)
	if err != nil {
		return err
	}
	key, err := r.idempotencyKey()
	if err != nil {
		return err
	}
	result, err := r.s.backend.Rollback(r.ctx, r.app, version, key)
	if err != nil {
		return err
	}
	result.Changes = orEmpty(result.Changes)
	return r.json(http.StatusOK, result)
}

func deleteApp(r *request) error {
	if err := r.s.backend.DeleteApp(r.ctx, r.app); err != nil {
		return err
	}
	r.fh.SetStatusCode(http.StatusNoContent)
	return nil
}

func putArtifact(r *request) error {
	existed, err := r.s.backend.PutArtifact(r.ctx, r.app, r.sum, &r.body)
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if existed {
		status = http.StatusOK
	}
	return r.json(status, wire.Artifact{SHA256: r.sum, Existed: existed})
}

func headArtifact(r *request) error {
	there, err := r.s.backend.HasArtifact(r.ctx, r.app, r.sum)
	if err != nil {
		return err
	}
	if !there {
		return spec.Errorf(spec.CodeNotFound, "app %q has no artifact %s", r.app, r.sum)
	}
	return nil
}
