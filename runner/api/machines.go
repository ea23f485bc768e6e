package api

import (
	"context"
	"net/http"

	"saltpeter/runner"
)

// MachinesRequest is the body of POST /api/v1/machines/check and of /api/v1/deploy.
type MachinesRequest struct {
	Machines  []string `json:"machines,omitempty"`   // names or globs; none: all that are enabled
	AcceptNew bool     `json:"accept_new,omitempty"` // check: write down host keys that nobody knows yet
	DryRun    bool     `json:"dry_run,omitempty"`    // deploy: only look
}

func (q MachinesRequest) query() runner.MachineQuery {
	return runner.MachineQuery{Globs: q.Machines, AcceptNew: q.AcceptNew, DryRun: q.DryRun}
}

func (s *Server) postMachinesCheck(w http.ResponseWriter, r *http.Request) error {
	return onMachines(s, w, r, s.o.Runner.CheckMachines)
}

func (s *Server) postDeploy(w http.ResponseWriter, r *http.Request) error {
	return onMachines(s, w, r, s.o.Runner.Deploy)
}

func onMachines[T any](s *Server, w http.ResponseWriter, r *http.Request, do func(context.Context, runner.Actor, runner.MachineQuery) (<-chan T, error)) error {
	var q MachinesRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	ctx, cancel := s.streaming(r)
	defer cancel()
	answers, err := do(ctx, callerOf(r).actor(), q.query())
	if err != nil {
		return err
	}
	return sendAll(ctx, s.newStream(w), answers)
}

// CheckMachines has the server try machines; on is called for each as it is found.
func (c *Client) CheckMachines(ctx context.Context, q MachinesRequest, on func(runner.MachineCheck) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/machines/check", q, on)
}

// Deploy has the server put the wrapper on machines.
func (c *Client) Deploy(ctx context.Context, q MachinesRequest, on func(runner.MachineDeploy) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/deploy", q, on)
}
