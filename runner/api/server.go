// Package api is the front door: the routes that people, scripts, the page and
// the command line come in by, and the client that the command line is. It
// decides nothing and keeps no state of its own: it asks the runner, reads the
// ledger, and says who is asking. The board that pages look at is drawn from these
// two when a page comes, and nothing is lost with it.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
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
	// ConfigDir is the folder of job files, for the answer of /api/v1/config.
	ConfigDir string
	// Directory problems of the last read, if it failed; nil otherwise.
	ConfigError func() error
	// Reports tells how what is reported to the outside gets on; nil: nothing is.
	Reports func(context.Context) []Reporter
	// Patience is how long a client may keep a line of a stream, or an event,
	// waiting before it is cut off; 0 = 30 s. Output is not under it: people hold
	// it up in pagers, and it holds up nobody.
	Patience time.Duration
	Log      *slog.Logger
}

// Bounds of a request, beside those of its streams.
const (
	bodyWithin   = 30 * time.Second // to send its body
	answerWithin = 2 * time.Minute  // to take an answer that is no stream
)

// Server answers on any number of listeners.
type Server struct {
	o    Options
	http *http.Server
	// life ends at Shutdown, and streams with it, which would outlive it. Short
	// requests do not look at it: they are let finish.
	life    context.Context
	stop    context.CancelFunc
	serving sync.WaitGroup

	board *board        // what pages look at
	pages atomic.Int64  // that are open
	built func() string // when this program was

	mu       sync.Mutex
	closing  bool // no request is begun any more
	requests sync.WaitGroup
}

// route is one line of the API. access is the least role that it asks for.
type route struct {
	pattern string // METHOD PATH
	access  Role
	handle  func(*Server, http.ResponseWriter, *http.Request) error
}

// routes is the whole API: path, who may, and what answers.
var routes = []route{
	{"GET /healthz", nobody, (*Server).getHealth},
	{"GET /readyz", nobody, (*Server).getReady},
	{"GET /metrics", Read, (*Server).getMetrics},
	{"GET /version", nobody, (*Server).getVersion},

	{"GET /ws", Read, (*Server).getUI},
	{"GET /config", Read, (*Server).getOldConfig},
	{"GET /status", Read, (*Server).getOldStatus},
	{"GET /running", Read, (*Server).getRunning},
	{"GET /timeline", Read, (*Server).getTimeline},
	{"POST /kill", Operate, (*Server).postOldKill},

	{"GET /api/v1/status", Read, (*Server).getStatus},
	{"GET /api/v1/jobs", Read, (*Server).getJobs},
	{"GET /api/v1/jobs/{job}", Read, (*Server).getJob},
	{"GET /api/v1/jobs/{job}/why", Read, (*Server).getWhy},
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
	{"POST /api/v1/machines/check", Operate, (*Server).postMachinesCheck},
	{"POST /api/v1/deploy", Operate, (*Server).postDeploy},
	{"GET /api/v1/maintenance", Read, (*Server).getMaintenance},
	{"POST /api/v1/maintenance/on", Operate, (*Server).postMaintenanceOn},
	{"POST /api/v1/maintenance/off", Operate, (*Server).postMaintenanceOff},
	{"GET /api/v1/config", Read, (*Server).getConfig},
	{"POST /api/v1/config/check", Read, (*Server).postCheck},
	{"GET /api/v1/audit", Operate, (*Server).getAudit},
	{"GET /api/v1/tokens", Admin, (*Server).getTokens},
	{"POST /api/v1/tokens", Admin, (*Server).postToken},
	{"DELETE /api/v1/tokens/{name}", Admin, (*Server).deleteToken},
}

// New makes a Server; Serve opens it on a listener.
func New(o Options) *Server {
	if o.Patience <= 0 {
		o.Patience = 30 * time.Second
	}
	s := &Server{o: o, board: newBoard(&o), built: sync.OnceValue(buildTime)}
	s.life, s.stop = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.enter(s.mux()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// mux has every route, and an answer of our own for what is none.
func (s *Server) mux() *http.ServeMux {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, r := range routes {
		mux.Handle(r.pattern, s.guard(r))
		method, path, _ := strings.Cut(r.pattern, " ")
		methods[path] = append(methods[path], method)
		if method == http.MethodGet {
			methods[path] = append(methods[path], http.MethodHead)
		}
	}
	for path, allowed := range methods {
		allow := strings.Join(allowed, ", ")
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			s.answerError(w, r, &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
				Text: r.URL.Path + " does not take " + r.Method, Hint: "it takes " + allow})
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answerError(w, r, &Error{Status: http.StatusNotFound, Code: "no_such_route", Text: "there is nothing at " + r.URL.Path,
			Hint: "the routes are listed in docs/api.md"})
	})
	return mux
}

// enter is what every request goes through: bounds on its time, and a place in
// the count that Shutdown waits for.
func (s *Server) enter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !s.begin() {
			s.answerError(w, r, errStopping)
			return
		}
		defer s.requests.Done()
		defer s.caught(r)
		if s.allowOrigin(w, r) {
			return
		}
		control := http.NewResponseController(w)
		control.SetWriteDeadline(time.Now().Add(answerWithin))
		if r.ContentLength != 0 {
			control.SetReadDeadline(time.Now().Add(bodyWithin))
		}
		next.ServeHTTP(w, r)
	})
}

var errStopping = &Error{Status: http.StatusServiceUnavailable, Code: "stopping", Text: "the server is stopping", Hint: "try again when it has been started again"}

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.requests.Add(1)
	return true
}

// caught logs a panic, which would be a fault of ours, and breaks the answer off.
func (s *Server) caught(r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		s.o.Log.Error("a request failed badly", "method", r.Method, "path", r.URL.Path, "err", v, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// breakOff ends an answer so that its reader sees that the rest is missing.
func breakOff() { panic(http.ErrAbortHandler) }

// streaming is the context of an answer that goes on: until its client or the
// server has gone.
func (s *Server) streaming(r *http.Request) (context.Context, context.CancelFunc) {
	return s.mortal(r.Context())
}

// asked is the context of what a client asked to be done: that is done also if the
// client has gone by then.
func (s *Server) asked(r *http.Request) (context.Context, context.CancelFunc) {
	return s.mortal(context.WithoutCancel(r.Context()))
}

func (s *Server) mortal(of context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(of)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// Serve answers on a listener until Shutdown, which makes it return nil.
func (s *Server) Serve(ln net.Listener) error {
	s.serving.Add(1)
	defer s.serving.Done()
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown breaks streams off, lets short requests finish until ctx ends, and
// closes the listeners. Nothing of it runs any more when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close() // ends the contexts of what is left
	}
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.requests.Wait()
	s.serving.Wait()
	return err
}

// Handler is the whole API as one handler, for tests and for embedding.
func (s *Server) Handler() http.Handler { return s.http.Handler }

func (s *Server) set() *config.Set { return s.o.Runner.Config() }
