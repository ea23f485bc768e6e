package cmd

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
	"saltpeter/testdata/oldwrapper"
)

// default_wrapper_path names the wrapper that is on the machines already: jobs run
// under it, and old clients kill them.
func TestMigrationOfOldWrappers(t *testing.T) {
	for generation := 1; generation <= 2; generation++ {
		t.Run(fmt.Sprint(generation), func(t *testing.T) {
			m := newMigration(t, func(m *migration) {
				path, err := oldwrapper.Write(m.dir, m.bin, generation)
				if err != nil {
					m.t.Fatal(err)
				}
				m.edit("saltpeter.yaml", "  debug: False\n", "  debug: False\n  default_wrapper_path: "+path+"\n")
			})
			old := oldClient{t, m.address()}
			page := old.page()
			page.send(map[string]any{"subscribe": []string{"long"}})
			for _, way := range []string{"killCron", "POST /kill"} {
				clear(page.text)
				page.send(map[string]string{"run": "long"})
				page.shows("long web1", func(s string) bool { return strings.HasPrefix(s, "started long_") })
				run := strings.TrimPrefix(strings.TrimSpace(page.text["long web1"]), "started ")
				if task := m.task(run); task.Version != "0.9.31" || len(m.ofRun(run)) < 2 {
					t.Errorf("it does not run under the older wrapper: %+v", task)
				}
				if way == "killCron" {
					page.send(map[string]string{"killCron": "long"})
				} else if status, text := old.postKill("long"); status != 200 {
					t.Errorf("POST /kill answers %d %s", status, text)
				}
				page.shows("long web1", func(s string) bool {
					return strings.Contains(s, "cleaning up\n") && strings.HasSuffix(s, "[Job terminated by user request]\n")
				})
				if task := m.awaitState(run, ledger.Killed); task.ExitCode == nil || *task.ExitCode != 143 {
					t.Errorf("%s: it ended with %+v", way, task)
				}
				m.await("nothing of it is left", func() bool { return len(m.ofRun(run)) == 0 })
			}
		})
	}
}

// A wrapper that the old server left running carries no token.
func TestMigrationOfRunningWrappers(t *testing.T) {
	m := newMigration(t)
	url := "ws://" + m.logged(`machines_port=(\S+)`) + "/"
	_, answer, err := websocket.DefaultDialer.Dial(url, nil)
	if err == nil || answer == nil || answer.StatusCode != 401 {
		t.Fatalf("it is let in unasked: %v, %v", answer, err)
	}
	m.edit("saltpeter.yaml", "  debug: False\n", "  debug: False\n  adopt_unknown: true\n")
	var conn *websocket.Conn
	m.await("it is let in", func() bool {
		conn, _, err = websocket.DefaultDialer.Dial(url, nil)
		return err == nil
	})
	defer conn.Close()
	const run = "once_1764360000"
	say := func(kind string, more map[string]any) {
		t.Helper()
		frame := map[string]any{"type": kind, "job_name": "once", "job_instance": run, "machine": "db1", "timestamp": "2025-11-28T20:00:00.000000+00:00"}
		for k, v := range more {
			frame[k] = v
		}
		if err := conn.WriteJSON(frame); err != nil {
			t.Fatal(err)
		}
	}
	say("heartbeat", nil)
	say("output", map[string]any{"stream": "stdout", "data": "still here\n", "seq": 5})
	m.await("it is shown", func() bool {
		var running oldRunning
		oldClient{t, m.address()}.get("/running", &running)
		id, machines := running.of("once")
		return id == run && len(machines) == 1 && machines[0] == "db1"
	})
	if _, err := m.client.RunJob(context.Background(), "once", api.RunRequest{}); err == nil {
		t.Error("it does not count for overlap")
	}
	say("complete", map[string]any{"retcode": 3, "seq": 6})
	if task := m.awaitState(run, ledger.Failed); task.ExitCode == nil || *task.ExitCode != 3 {
		t.Errorf("its end is %+v", task)
	}
	if out, _, _ := m.cli(nil, "logs", run); !strings.Contains(out, "still here\n") {
		t.Errorf("its output is %q", out)
	}
	m.awaitState(m.asked("once"), ledger.Running) // and the next may begin
}
