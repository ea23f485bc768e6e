// Package api is the front door: the routes that people, scripts, the page and
// the command line come in by, and the client that the command line is. It
// decides nothing and keeps no state of its own: it asks the runner, reads the
// ledger, and says who is asking.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// Options of a Server.
type Options struct {
	Runner  *runner.Runner
	Ledger  *ledger.Ledger
	Version string
	Tokens  *Tokens // who may come in over TCP
	// AnonymousRole opens TCP to callers without a token; "" keeps it shut but
	// for loopback while no token exists.
	AnonymousRole Role
	// Hosts are names that browsers may call this server by, beside its own
	// addresses; Origins of those hosts are let in too.
	Hosts []string
	// ConfigDir is the folder of job files, for the answer of /api/v1/config.
	ConfigDir string
	// Directory problems of the last read, if it failed; nil otherwise.
	ConfigError func() error
	Log         *slog.Logger
}

// Server answers on any number of listeners.
type Server struct {
	o    Options
	http *http.Server
	// stop ends streams that would otherwise outlive a shutdown.
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// access is the least role that a route asks for.
type route struct {
	pattern string
	access  Role
	handle  func(*Server, http.ResponseWriter, *http.Request) error
}

// routes is the whole API: path, who may, and what answers.
var routes = []route{
	{"GET /healthz", nobody, (*Server).getHealth},
	{"GET /readyz", nobody, (*Server).getReady},
	{"GET /metrics", Read, (*Server).getMetrics},
	{"GET /version", nobody, (*Server).getVersion},

	{"GET /api/v1/status", Read, (*Server).getStatus},
	{"GET /api/v1/jobs", Read, (*Server).getJobs},
	{"GET /api/v1/jobs/{job}", Read, (*Server).getJob},
	{"POST /api/v1/jobs/{job}/run", Operate, (*Server).postRun},
	{"GET /api/v1/runs", Read, (*Server).getRuns},
	{"GET /api/v1/runs/{run}", Read, (*Server).getRun},
	{"GET /api/v1/runs/{run}/tasks/{machine}/output", Read, (*Server).getOutput},
	{"GET /api/v1/runs/{run}/tasks/{machine}/rows", Read, (*Server).getRows},
	{"POST /api/v1/runs/{run}/forget", Operate, (*Server).postForget},
	{"GET /api/v1/skips", Read, (*Server).getSkips},
	{"POST /api/v1/kill", Operate, (*Server).postKill},
	{"POST /api/v1/pause", Operate, (*Server).postPause},
	{"POST /api/v1/resume", Operate, (*Server).postResume},
	{"POST /api/v1/signal", Operate, (*Server).postSignal},
	{"GET /api/v1/events", Read, (*Server).getEvents},
	{"GET /api/v1/machines", Read, (*Server).getMachines},
	{"GET /api/v1/config", Read, (*Server).getConfig},
	{"POST /api/v1/config/check", Read, (*Server).postCheck},
	{"GET /api/v1/audit", Operate, (*Server).getAudit},
	{"GET /api/v1/tokens", Admin, (*Server).getTokens},
	{"POST /api/v1/tokens", Admin, (*Server).postToken},
	{"DELETE /api/v1/tokens/{name}", Admin, (*Server).deleteToken},
}

// New makes a Server; Serve opens it on a listener.
func New(o Options) *Server {
	s := &Server{o: o}
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.pattern, s.guard(r))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answerError(w, r, &Error{Status: http.StatusNotFound, Code: "no_such_route", Text: "there is nothing at " + r.Method + " " + r.URL.Path,
			Hint: "the routes are listed in docs/api.md"})
	})
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers on a listener until Shutdown, which makes it return nil.
func (s *Server) Serve(ln net.Listener) error {
	s.wg.Add(1)
	defer s.wg.Done()
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown ends streams, lets short requests finish, and closes the listeners.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	s.wg.Wait()
	return err
}

// Handler is the whole API as one handler, for tests and for embedding.
func (s *Server) Handler() http.Handler { return s.http.Handler }

func (s *Server) set() *config.Set { return s.o.Runner.Config() }
