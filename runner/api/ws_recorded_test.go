package api

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// wrapperOf plays a wrapper that another server started.
type wrapperOf struct {
	t    *testing.T
	conn *wsx.Conn
	id   ledger.TaskID
	job  string
}

func (r *rig) foreigner(job, run, machine string) *wrapperOf {
	r.t.Helper()
	conn, err := wsx.Dial(r.t.Context(), wsx.DialOptions{URL: "ws://" + r.machines + "/"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close("") })
	return &wrapperOf{r.t, conn, ledger.TaskID{Run: run, Machine: machine}, job}
}

func (w *wrapperOf) say(kind string, more map[string]any) {
	w.t.Helper()
	frame := map[string]any{"type": kind, "job_name": w.job, "job_instance": w.id.Run, "machine": w.id.Machine}
	maps.Copy(frame, more)
	data, err := json.Marshal(frame)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.conn.Write(wsx.Text, data); err != nil {
		w.t.Fatal(err)
	}
}

// A job that another server started, and that is in no job file, can be looked at: while
// it runs, when it is over, and by a page that comes later.
func TestPagesShowJobsBeyondTheFiles(t *testing.T) {
	for _, kind := range []pageKind{pageKinds[0], pageKinds[4]} {
		t.Run(kind.name, func(t *testing.T) {
			r := newRig(t)
			r.configure(strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  adopt_unknown: true", 1))
			v := r.view(kind)
			const before = "[what it printed before was received by another server]\n"
			w := r.foreigner("theirs", "theirs_1764360000", "db1")
			w.say("output", map[string]any{"stream": "stdout", "data": "working\n", "seq": 3})
			r.await("its output", func() bool {
				_, err := r.book.Task(t.Context(), w.id)
				return err == nil && r.output(w.id) == before+"working\n"
			})
			at := spot{"theirs", "db1"}
			v.open("theirs")
			v.shows(at, w.id.Run, before+"working\n")
			w.say("output", map[string]any{"stream": "stdout", "data": "done\n", "seq": 4})
			w.say("complete", map[string]any{"retcode": 3, "seq": 5})
			v.shows(at, w.id.Run, before+"working\ndone\n")
			v.until("its end", func(p *oldPage) bool {
				results, _ := p.details["results"].(map[string]any)
				db1, _ := results["db1"].(map[string]any)
				return db1["retcode"] == float64(3) && p.done[at]
			})
			v.conn.Close("")
			<-v.done

			later := r.view(kind)
			later.open("theirs")
			later.shows(at, w.id.Run, before+"working\ndone\n")
			r.configure(jobFiles) // the board goes on as it was
			later.leave("theirs")
			later.open("theirs")
			later.shows(at, w.id.Run, before+"working\ndone\n")
			later.conn.Write(wsx.Text, []byte(`{"subscribe":"nobody's"}`))
			if f := later.answer("result", nil); f["code"] != "no_such_job" {
				t.Errorf("%v", f)
			}
		})
	}
}
