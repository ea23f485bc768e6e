package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
)

// getWhy answers what became of a job's due times from ?at= on, for as long as
// ?within= says (a second, unless given); without at, of the last one.
func (s *Server) getWhy(w http.ResponseWriter, r *http.Request) error {
	at, err := queryTime(r, "at")
	if err != nil {
		return err
	}
	within := time.Second
	if text := r.URL.Query().Get("within"); text != "" {
		if within, err = config.ParseDuration(text); err != nil || within <= 0 {
			return badRequest("within=%q is no length of time: write one like 1m", text)
		}
	}
	answer, err := s.o.Runner.Why(r.Context(), r.PathValue("job"), at, at.Add(within))
	if err != nil {
		return err
	}
	for i := range answer.Runs {
		answer.Runs[i].Definition = nil
		answer.Runs[i].Tasks = list(answer.Runs[i].Tasks)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// Why tells what became of a job's due times in [from, until); a zero from is the
// last one.
func (c *Client) Why(ctx context.Context, job string, from, until time.Time) (*runner.Why, error) {
	q := url.Values{}
	if !from.IsZero() {
		setTime(q, "at", from)
		q.Set("within", until.Sub(from).String())
	}
	var v runner.Why
	return &v, c.get(ctx, "/api/v1/jobs/"+url.PathEscape(job)+"/why", q, &v)
}
