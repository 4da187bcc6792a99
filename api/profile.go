package api

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

const (
	profilesPath = "/debug/pprof"
	// profileTime is for how long a profile that takes time may be taken: it has to fit
	// into Config.RequestTimeout with room to spare.
	profileTime = 25
	// traceTime is shorter, since a trace holds everything that happens.
	traceTime = 5
)

// profiling is held while a profile is taken that takes time: the runtime takes one at
// a time.
var profiling sync.Mutex

// listProfiles names what getProfile gives.
func listProfiles(r *request) error {
	if err := r.fromHere(); err != nil {
		return err
	}
	names := []string{"profile", "trace"}
	for _, p := range pprof.Profiles() {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return r.json(http.StatusOK, map[string][]string{"items": names})
}

// getProfile gives a profile of the process in the form that `go tool pprof`, or for
// a trace `go tool trace`, reads.
func getProfile(r *request) error {
	if err := r.fromHere(); err != nil {
		return err
	}
	var out bytes.Buffer
	var err error
	switch r.profile {
	case "profile":
		err = r.during(profileTime, func() error { return pprof.StartCPUProfile(&out) }, pprof.StopCPUProfile)
	case "trace":
		err = r.during(traceTime, func() error { return trace.Start(&out) }, trace.Stop)
	default:
		err = r.snapshot(&out)
	}
	if err != nil {
		return err
	}
	r.fh.SetContentType("application/octet-stream")
	r.fh.Response.SetBodyRaw(out.Bytes())
	return nil
}

// fromHere refuses callers on other machines: what a process does and where it spends
// its time is for who runs it.
func (r *request) fromHere() error {
	addr, ok := r.fh.RemoteAddr().(*net.TCPAddr)
	far := ok && !addr.IP.IsLoopback()
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} { // a proxy on this machine asks for somebody else
		far = far || len(r.fh.Request.Header.Peek(name)) > 0
	}
	if far {
		return spec.Errorf(spec.CodeForbidden, "profiles are only given to callers on the node's own machine").WithHint("ask through a tunnel, as ssh -L gives")
	}
	return nil
}

// during takes a profile for as many seconds as are asked for.
func (r *request) during(most uint64, start func() error, stop func()) error {
	seconds, err := r.query.number("seconds", min(most, 10), 1, most)
	if err != nil {
		return err
	}
	if !profiling.TryLock() {
		return spec.Errorf(spec.CodeConflict, "a profile is being taken: ask again when it is done")
	}
	defer profiling.Unlock()
	if err := start(); err != nil {
		return spec.Errorf(spec.CodeConflict, "take a profile: %w", err)
	}
	defer stop()
	ctx, cancel := context.WithTimeout(r.ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-r.s.stopping.Done():
	}
	return nil
}

// snapshot takes a profile of what is there now.
func (r *request) snapshot(out *bytes.Buffer) error {
	p := pprof.Lookup(r.profile)
	if p == nil {
		var names []string
		for _, p := range pprof.Profiles() {
			names = append(names, p.Name())
		}
		return spec.Errorf(spec.CodeNotFound, "there is no profile %q%s", clip(r.profile), spec.DidYouMean(r.profile, names)).WithHint("there are profile, trace, " + strings.Join(names, ", "))
	}
	if r.query.has("seconds") {
		return spec.Errorf(spec.CodeInvalid, "%s is of one moment: leave seconds out", r.profile).WithField("seconds")
	}
	debug, err := r.query.number("debug", 0, 0, 2)
	if err != nil {
		return err
	}
	if r.profile == "heap" { // which shows what was alive at the last collection
		runtime.GC()
	}
	return p.WriteTo(out, int(debug))
}
