package api

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestReporters(t *testing.T) {
	since := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	r := newRig(t, func(o *Options) {
		o.Reports = func(context.Context) []Reporter {
			return []Reporter{
				{Name: "elasticsearch", To: "http://es1:9200", Problem: "cannot reach http://es1:9200", Since: since, Behind: 12, Told: 34, Errors: 5, Refused: 6, Lost: 7},
				{Name: "logdir", To: "/var/log/saltpeter", Told: 50},
			}
		}
	})
	a := r.asker("unix", r.socket)
	body := func(path string) string {
		_, _, text := a.ask("GET", path, "")
		return text
	}
	metrics := body("/metrics")
	for _, line := range []string{
		`saltpeter_report_behind{reporter="elasticsearch"} 12`, `saltpeter_report_failing{reporter="elasticsearch"} 1`, `saltpeter_report_failing{reporter="logdir"} 0`,
		`saltpeter_report_events_total{reporter="elasticsearch"} 34`, `saltpeter_report_errors_total{reporter="elasticsearch"} 5`,
		`saltpeter_report_refused_total{reporter="elasticsearch"} 6`, `saltpeter_report_lost_total{reporter="elasticsearch"} 7`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("%s is not in\n%s", line, metrics)
		}
	}
	for _, path := range []string{"/api/v1/status", "/api/v1/config"} {
		var answer struct{ Reports []Reporter }
		if err := json.Unmarshal([]byte(body(path)), &answer); err != nil {
			t.Fatal(err)
		}
		if len(answer.Reports) != 2 || answer.Reports[0].Problem != "cannot reach http://es1:9200" || !answer.Reports[0].Since.Equal(since) || answer.Reports[1].Told != 50 {
			t.Errorf("%s: %+v", path, answer.Reports)
		}
	}
}
