package daemon

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/kilntainers/kilntainers/backends"
)

// metrics is what GET /-/metrics tells, in Prometheus's text format. What can
// be counted when asked (sandboxes, sessions) is; only events are counted as
// they happen.
type metrics struct {
	registry *prometheus.Registry
	execs    *prometheus.CounterVec
	execTime *prometheus.HistogramVec
	creates  *prometheus.CounterVec
	makeTime *prometheus.HistogramVec
	reloads  *prometheus.CounterVec
	reloadOK prometheus.Gauge

	mu       sync.Mutex
	profiles map[string]*profileMetrics
}

// profileMetrics are the events of one profile, looked up once.
type profileMetrics struct {
	ok, failed, timeout, limit, cancelled, gone, errored prometheus.Counter
	execTime                                             prometheus.Observer
	made, makeFailed                                     prometheus.Counter
	makeTime                                             prometheus.Observer
}

func newMetrics() *metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Name: "kilntainers_" + n, Help: help}
	}
	counter := func(n, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(name(n, help)), labels)
	}
	histogram := func(n, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kilntainers_" + n, Help: help, Buckets: buckets}, []string{"profile"})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		execs:    counter("execs_total", "Commands run, by outcome.", "profile", "outcome"),
		execTime: histogram("exec_duration_seconds", "Time that commands ran.", []float64{.001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}),
		creates:  counter("sandbox_creates_total", "Sandboxes made for a session, by outcome.", "profile", "outcome"),
		makeTime: histogram("sandbox_create_duration_seconds", "Time until a session had its sandbox.", []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}),
		reloads:  counter("config_reloads_total", "Reloads of the configuration, by outcome.", "outcome"),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts(name("config_last_reload_successful", "Whether the files on disk are in force."))),
		profiles: map[string]*profileMetrics{},
	}
	m.registry.MustRegister(m.execs, m.execTime, m.creates, m.makeTime, m.reloads, m.reloadOK)
	return m
}

func (m *metrics) profile(name string) *profileMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.profiles[name]
	if p == nil {
		p = &profileMetrics{
			ok:         m.execs.WithLabelValues(name, "ok"),
			failed:     m.execs.WithLabelValues(name, "nonzero"),
			timeout:    m.execs.WithLabelValues(name, "timeout"),
			limit:      m.execs.WithLabelValues(name, "output_limit"),
			cancelled:  m.execs.WithLabelValues(name, "cancelled"),
			gone:       m.execs.WithLabelValues(name, "sandbox_died"),
			errored:    m.execs.WithLabelValues(name, "error"),
			execTime:   m.execTime.WithLabelValues(name),
			made:       m.creates.WithLabelValues(name, "ok"),
			makeFailed: m.creates.WithLabelValues(name, "error"),
			makeTime:   m.makeTime.WithLabelValues(name),
		}
		m.profiles[name] = p
	}
	return p
}

// executed counts one command.
func (p *profileMetrics) executed(took time.Duration, out output, err error) {
	p.execTime.Observe(took.Seconds())
	switch {
	case errors.Is(err, backends.ErrGone):
		p.gone.Inc()
	case errors.Is(err, context.Canceled):
		p.cancelled.Inc()
	case err != nil:
		p.errored.Inc()
	case out.timedOut:
		p.timeout.Inc()
	case out.overLimit:
		p.limit.Inc()
	case out.ExitCode != 0:
		p.failed.Inc()
	default:
		p.ok.Inc()
	}
}

// created counts one sandbox.
func (p *profileMetrics) created(took time.Duration, err error) {
	if err != nil {
		p.makeFailed.Inc()
		return
	}
	p.made.Inc()
	p.makeTime.Observe(took.Seconds())
}

// reloaded counts one reload.
func (m *metrics) reloaded(ok bool) {
	if ok {
		m.reloads.WithLabelValues("ok").Inc()
		m.reloadOK.Set(1)
		return
	}
	m.reloads.WithLabelValues("error").Inc()
	m.reloadOK.Set(0)
}

// serveMetrics shows a caller the profiles that it may use.
func (d *Daemon) serveMetrics(w http.ResponseWriter, r *http.Request, from *caller) {
	now := prometheus.NewRegistry()
	gauge := func(name, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kilntainers_" + name, Help: help}, []string{"profile"})
		now.MustRegister(g)
		return g
	}
	sandboxes := gauge("sandboxes", "Sandboxes of sessions.")
	warm := gauge("warm_sandboxes", "Sandboxes kept started ahead of need.")
	sessions := gauge("sessions", "Clients connected, or holding a sandbox.")
	visible := map[string]bool{}
	for _, ep := range d.visible(r, from) {
		if s, ok := ep.status(); ok {
			visible[s.Name] = true
			sandboxes.WithLabelValues(s.Name).Set(float64(s.Sandboxes))
			warm.WithLabelValues(s.Name).Set(float64(s.Warm))
			sessions.WithLabelValues(s.Name).Set(float64(s.Sessions))
		}
	}
	events := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := d.table.metrics.registry.Gather()
		for _, f := range families {
			f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool {
				return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == "profile" && !visible[l.GetValue()] })
			})
		}
		return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return len(f.Metric) == 0 }), err
	})
	promhttp.HandlerFor(prometheus.Gatherers{events, now}, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
