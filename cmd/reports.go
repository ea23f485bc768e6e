package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"saltpeter/config"
	"saltpeter/runner/api"
	"saltpeter/runner/report"
)

// systemLogDir is where text logs go by default when this is the system's server.
const systemLogDir = "/var/log/saltpeter"

// openReports lets the ledger keep news for whom the settings name, from now on.
func (d *daemon) openReports(ctx context.Context) {
	dirs := []string{filepath.Join(d.stateDir, "log")}
	// A server with a state directory of its own is one beside the system's: their
	// logs must not mix.
	if os.Geteuid() == 0 && d.stateDir == defaultStateDir() {
		dirs = append([]string{systemLogDir}, dirs...)
	}
	d.reports = report.New(ctx, report.Options{Ledger: d.book, LogDirs: dirs, Log: d.log}, reportSettings(d.set))
}

func reportSettings(set *config.Set) report.Settings {
	s := set.Settings
	notify := map[string]report.Notify{}
	for _, name := range set.Order {
		if n := set.Jobs[name].Notify; n != nil {
			notify[name] = report.Notify(*n)
		}
	}
	return report.Settings{
		LogDir:        s.LogDir,
		Elasticsearch: report.Store{URLs: s.Elasticsearch, Index: s.ElasticsearchIndex},
		OpenSearch:    report.Store{URLs: s.OpenSearch, Index: s.OpenSearchIndex},
		Notify:        notify,
	}
}

// reporters tells the front door how the reports get on.
func (d *daemon) reporters(ctx context.Context) []api.Reporter {
	states := d.reports.States(ctx)
	list := make([]api.Reporter, len(states))
	for i, s := range states {
		list[i] = api.Reporter(s)
	}
	return list
}

// farBehind is how many events a reporter may have before it that nobody needs to
// know of.
const farBehind = 10_000

// reporters says what does not get on of what is reported to the outside, and
// nothing where all is well.
func (a *app) reporters(w io.Writer, st *api.Status) {
	said := false
	say := func(colour, what, format string, args ...any) {
		said = true
		fmt.Fprintf(w, "%s "+format+"\n", append([]any{a.colour(colour, what)}, args...)...)
	}
	for _, r := range st.Reports {
		name := printable(r.Name)
		switch {
		case r.Problem != "":
			say(red, "NOT REPORTED", "%s since %s, %s kept for it: %s", name, clock(r.Since, st.Now), plural(int(r.Behind), "event", "events"), printable(r.Problem))
		case r.Behind >= farBehind:
			say(yellow, "BEHIND", "%s: %d events are still to be reported", name, r.Behind)
		}
		if r.Name == report.Notices && r.Refused > 0 {
			say(yellow, "NOT TOLD", "%s: %s could not be delivered since the server's start", name, plural(int(r.Refused), "notice", "notices"))
			r.Refused = 0
		}
		if r.Lost+r.Refused > 0 {
			say(yellow, "NOT REPORTED", "%s: %d events given up and %d documents refused since the server's start; its log says why", name, r.Lost, r.Refused)
		}
		if r.Warning != "" {
			say(yellow, "REPORTS", "%s", printable(r.Warning))
		}
	}
	if said {
		fmt.Fprintln(w)
	}
}
