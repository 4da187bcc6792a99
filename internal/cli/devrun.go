package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// devRun is a node that runs, and the app that is deployed to it again and again.
type devRun struct {
	c         *cli
	server    *client.Client
	node      Node
	manifest  string // "": no app
	data      string
	temporary bool
	out       io.Writer // for people; standard output is the ready line's with -o json

	deployed  [sha256.Size]byte // what was tried last, so that nothing is deployed twice
	app       spec.AppName      // of the last deployment that worked
	version   uint64
	following spec.AppName // whose log lines are printed
	lines     chan string
}

// serve runs until ctx or the node ends. It alone writes to the streams.
func (r *devRun) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.node.Wait() }()
	r.lines = make(chan string, 64) // log lines that wait to be printed
	logs := newOwned(ctx)
	defer logs.stop()
	defer cancel()

	folder, err := r.watchFolder()
	if err != nil {
		return err
	}
	defer folder.close()
	r.hello()
	deployError := r.deploy(ctx)
	if err := r.tellReady(deployError); err != nil {
		return err
	}
	for {
		if r.app != r.following {
			r.following = r.app
			logs.run(func(ctx context.Context) { r.followLogs(ctx, r.following) })
		}
		select {
		case <-ctx.Done():
			r.c.notice("stopping; press Ctrl-C again to stop at once")
			return nil
		case err := <-ended:
			return stopped(ctx, nodeEnded(err))
		case line := <-r.lines:
			say(r.out, "%s", line)
		case <-folder.changed():
			_ = r.deploy(ctx) // told there; the next change may mend it
		case err := <-folder.failed():
			say(r.out, "warning: changes may be missed: %s", harmless(err.Error()))
		}
	}
}

func (r *devRun) hello() {
	kept := "kept in " + r.data
	if r.temporary {
		kept = "removed at exit; --data DIR keeps it"
	}
	say(r.out, "Pheromone runs at %s (data is %s)", r.node.URL(), harmless(kept))
}

func (r *devRun) tellReady(deployError error) error {
	if r.c.format != formatJSON && r.c.format != formatJSONL {
		return nil
	}
	line := readyLine{Ready: true, URL: r.node.URL(), Data: r.data, PID: os.Getpid(), App: r.app, Version: r.version}
	if deployError != nil {
		e := wireError(deployError)
		line.Error = &e
	}
	return r.c.writeJSON(line, "")
}

// deploy deploys what lies in the folder now, unless that was tried before, and
// tells what came of it.
func (r *devRun) deploy(ctx context.Context) error {
	if r.manifest == "" {
		return nil
	}
	start := time.Now()
	m, err := r.c.loadManifest(r.manifest)
	if err != nil {
		r.refused(err)
		return err
	}
	folder, err := m.pack(r.exclude(m)...)
	if err != nil {
		r.refused(err)
		return err
	}
	sum := contents(m, folder)
	if sum == r.deployed {
		return nil
	}
	r.deployed = sum
	result, err := r.c.deploy(ctx, r.server, m, folder, false)
	if err != nil {
		if ctx.Err() == nil {
			r.refused(err)
		}
		return err
	}
	r.app, r.version = result.App, result.Version
	for _, w := range result.Warnings {
		say(r.out, "%s", faultLine(m.path, w))
	}
	for _, change := range result.Changes {
		say(r.out, "  %s", r.c.changeLine(change))
	}
	say(r.out, "%s version %d ready in %d ms", harmless(string(r.app)), r.version, time.Since(start).Milliseconds())
	return nil
}

// contents is the hash of the manifest and of the folder that goes with it.
func contents(m *manifest, folder *client.Artifact) [sha256.Size]byte {
	all := m.data
	if folder != nil {
		all = append([]byte(folder.Sum), all...)
	}
	return sha256.Sum256(all)
}

// exclude keeps the node's own data out of the app, if it lies in its folder.
func (r *devRun) exclude(m *manifest) []string {
	dir, err := filepath.Abs(m.dir)
	if err != nil {
		return nil
	}
	inside, err := filepath.Rel(dir, r.data)
	if err != nil || inside == "." || inside == ".." || strings.HasPrefix(inside, "../") {
		return nil
	}
	return []string{filepath.ToSlash(inside)}
}

func (r *devRun) refused(err error) {
	r.deployed = [sha256.Size]byte{}
	said := wireError(err)
	say(r.out, "%s %s", r.c.paint(r.c.StdoutTerminal, red, "not deployed:"), harmlessText(said.Message))
	for _, f := range said.Faults {
		say(r.out, "  %s", faultLine(r.manifest, f))
	}
	if said.Hint != "" {
		say(r.out, "hint: %s", harmlessText(said.Hint))
	}
}

func (r *devRun) followLogs(ctx context.Context, app spec.AppName) {
	since := r.c.Now()
	send := func(text string) bool {
		select {
		case r.lines <- text:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for line, err := range r.server.Logs(ctx, app, client.LogsOptions{Follow: true}) {
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			send(fmt.Sprintf("warning: no more log lines: %s", harmless(err.Error())))
			return
		case line.Time.Before(since.Add(-time.Second)): // of an earlier run on the same data
			continue
		}
		if !send(r.devLog(line)) {
			return
		}
	}
}

func (r *devRun) devLog(line wire.LogLine) string {
	return r.c.logLine(line, r.c.StdoutTerminal && r.out == r.c.Stdout)
}

func nodeEnded(err error) error {
	if err == nil {
		return spec.Errorf(spec.CodeInternal, "the node ended by itself")
	}
	return fmt.Errorf("the node ended: %w", err)
}

// owned is at most one goroutine at a time, which is stopped and waited for.
type owned struct {
	parent context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

func newOwned(parent context.Context) *owned { return &owned{parent: parent} }

func (o *owned) run(f func(ctx context.Context)) {
	o.stop()
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(o.parent)
	done := make(chan struct{})
	o.done = done
	go func() {
		defer close(done)
		f(ctx)
	}()
}

func (o *owned) stop() {
	if o.cancel == nil {
		return
	}
	o.cancel()
	<-o.done
	o.cancel = nil
}
