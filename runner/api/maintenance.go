package api

import (
	"context"
	"net/http"
	"path/filepath"

	"saltpeter/runner"
)

// Maintenance is the answer of GET /api/v1/maintenance.
type Maintenance struct {
	runner.Maintenance
	ConfigDir string `json:"config_dir"` // of the server's job files, from the root
}

// MaintenanceRequest is the body of POST /api/v1/maintenance/on and /off.
type MaintenanceRequest struct {
	Machines []string `json:"machines,omitempty"` // names or globs; none: everything
	Reason   string   `json:"reason,omitempty"`
}

func (s *Server) getMaintenance(w http.ResponseWriter, r *http.Request) error {
	dir := s.o.ConfigDir
	if whole, err := filepath.Abs(dir); err == nil {
		dir = whole
	}
	return writeJSON(w, http.StatusOK, Maintenance{Maintenance: s.o.Runner.Maintenance(), ConfigDir: dir})
}

func (s *Server) postMaintenanceOn(w http.ResponseWriter, r *http.Request) error {
	var q MaintenanceRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	answer, err := s.o.Runner.MaintenanceOn(r.Context(), callerOf(r).actor(), q.Machines, q.Reason)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *Server) postMaintenanceOff(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Machines []string `json:"machines"`
	}
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	answer, err := s.o.Runner.MaintenanceOff(r.Context(), callerOf(r).actor(), q.Machines)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

// Maintenance tells what gets no new run, and where that is said.
func (c *Client) Maintenance(ctx context.Context) (*Maintenance, error) {
	var v Maintenance
	return &v, c.get(ctx, "/api/v1/maintenance", nil, &v)
}

// MaintenanceOn keeps new runs from machines, or from everything.
func (c *Client) MaintenanceOn(ctx context.Context, q MaintenanceRequest) (*runner.MaintenanceChange, error) {
	var v runner.MaintenanceChange
	return &v, c.call(ctx, http.MethodPost, "/api/v1/maintenance/on", nil, q, &v)
}

// MaintenanceOff ends what MaintenanceOn began.
func (c *Client) MaintenanceOff(ctx context.Context, q MaintenanceRequest) (*runner.MaintenanceChange, error) {
	var v runner.MaintenanceChange
	return &v, c.call(ctx, http.MethodPost, "/api/v1/maintenance/off", nil, q, &v)
}
