package api

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Reporter is how one of those gets on that tell the outside world what happens:
// the text logs, Elasticsearch, OpenSearch, notices to people. A problem is one of reporting only; it
// holds up no job, and nothing is lost by it but what Lost counts.
type Reporter struct {
	Name    string    `json:"name"`              // as its key in saltpeter_config
	To      string    `json:"to"`                // where it reports to, without secrets
	Problem string    `json:"problem,omitempty"` // why it does not get on
	Warning string    `json:"warning,omitempty"` // what is not as it was meant, and works
	Since   time.Time `json:"since,omitzero"`    // since when there is a problem
	Behind  int64     `json:"behind"`            // what is still to be told
	Told    int64     `json:"told"`              // since the server's start, like the others below
	Errors  int64     `json:"errors"`            // tries that failed
	Refused int64     `json:"refused"`           // documents that the store will not have, notices that could not be delivered
	Lost    int64     `json:"lost"`              // given up, since the reporter was behind for too long
}

func (s *Server) reporters(ctx context.Context) []Reporter {
	if s.o.Reports == nil {
		return []Reporter{}
	}
	return list(s.o.Reports(ctx))
}

// writeReporters writes the metrics of what is reported.
func writeReporters(w io.Writer, reporters []Reporter) {
	if len(reporters) == 0 {
		return
	}
	for _, m := range []struct {
		name, kind, help string
		value            func(*Reporter) int64
	}{
		{"saltpeter_report_behind", "gauge", "Events that are still to be reported.", func(r *Reporter) int64 { return r.Behind }},
		{"saltpeter_report_failing", "gauge", "1 while reporting fails.", func(r *Reporter) int64 {
			if r.Problem != "" {
				return 1
			}
			return 0
		}},
		{"saltpeter_report_events_total", "counter", "Events that were reported.", func(r *Reporter) int64 { return r.Told }},
		{"saltpeter_report_errors_total", "counter", "Tries to report that failed.", func(r *Reporter) int64 { return r.Errors }},
		{"saltpeter_report_refused_total", "counter", "Documents that the store refused, and notices that could not be delivered.", func(r *Reporter) int64 { return r.Refused }},
		{"saltpeter_report_lost_total", "counter", "Events given up, since their reporter was behind for too long.", func(r *Reporter) int64 { return r.Lost }},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for i := range reporters {
			fmt.Fprintf(w, "%s{reporter=%q} %d\n", m.name, reporters[i].Name, m.value(&reporters[i]))
		}
	}
}
