package api

import (
	"bytes"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

const noRoute = "none" // of requests that found no route

// metrics counts requests by the pattern of their route, its method and the
// class of the answer's status, which bounds the number of series.
type metrics struct {
	total   *prometheus.CounterVec
	took    *prometheus.HistogramVec
	read    prometheus.Counter
	streams prometheus.Gauge
	waits   prometheus.Gauge

	// byRoute spares the hot path the search by labels; nil is noRoute.
	byRoute map[*route]*routeMetrics
}

type routeMetrics struct {
	byClass [6]prometheus.Counter
	took    prometheus.Observer // nil where the time says nothing: the client chose it
}

var classes = [6]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

func newMetrics(registry *prometheus.Registry, all []*route) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pheromone_http_requests_total",
			Help: "Requests answered, by route and class of status.",
		}, []string{"route", "method", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pheromone_http_request_duration_seconds",
			Help:    "From a request's headers to its answer, streams excepted; waits for a session count.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600},
		}, []string{"route", "method"}),
		read: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pheromone_http_request_body_bytes_total",
			Help: "Bytes read from request bodies.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pheromone_http_streams",
			Help: "Watches and followed logs that are open.",
		}),
		waits: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pheromone_http_waits",
			Help: "Requests that wait for a session.",
		}),
		byRoute: make(map[*route]*routeMetrics),
	}
	registry.MustRegister(m.total, m.took, m.read, m.streams, m.waits)
	for _, r := range append([]*route{nil}, all...) {
		pattern, method := noRoute, "other"
		if r != nil {
			pattern, method = r.pattern, r.method
		}
		rm := &routeMetrics{}
		for i, class := range classes {
			rm.byClass[i] = m.total.WithLabelValues(pattern, method, class)
		}
		if r == nil || !r.lasting {
			rm.took = m.took.WithLabelValues(pattern, method)
		}
		m.byRoute[r] = rm
	}
	return m
}

func (m *metrics) count(r *request) {
	rm := m.byRoute[r.route]
	class := r.fh.Response.StatusCode() / 100
	if class < 1 || class > 5 {
		class = 0
	}
	rm.byClass[class].Inc()
	if rm.took != nil {
		rm.took.Observe(time.Since(r.began).Seconds())
	}
	if r.body.read > 0 {
		m.read.Add(float64(r.body.read))
	}
}

// getMetrics renders the registry in the form that the scraper asks for.
func getMetrics(r *request) error {
	families, err := r.s.cfg.Registry.Gather()
	if err != nil {
		r.s.log.Warn("some metrics could not be gathered", "request_id", r.id, "error", err)
	}
	format := expfmt.NegotiateAccept(http.Header{"Accept": {string(r.fh.Request.Header.Peek("Accept"))}}, expfmt.DefaultAcceptedFormats()...)
	var out bytes.Buffer
	encoder := expfmt.NewEncoder(&out, format)
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			return err
		}
	}
	r.fh.SetContentType(string(format))
	r.fh.Response.SetBodyRaw(out.Bytes())
	return nil
}
