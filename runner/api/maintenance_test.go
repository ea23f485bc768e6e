package api

import (
	"strings"
	"testing"
)

// Maintenance over the API: who switched it, what pages are shown, and who may not.
func TestMaintenanceSwitch(t *testing.T) {
	r := newRig(t)
	v := r.view(pageKinds[0])
	shown := func(global bool, machines int) {
		t.Helper()
		v.until("the maintenance", func(*oldPage) bool {
			for i := len(v.frames) - 1; i >= 0; i-- {
				if f := v.frames[i]; f["type"] == "config" {
					m := f["config"].(map[string]any)["maintenance"].(map[string]any)
					return m["global"] == global && len(m["machines"].([]any)) == machines
				}
			}
			return false
		})
	}
	shown(false, 0)
	a := r.asker("tcp", r.tcp)
	if status, e, body := a.ask("POST", "/api/v1/maintenance/on", `{"reason":"disks"}`); status != 200 || !strings.Contains(body, `"by":"anonymous"`) || !strings.Contains(body, `"reason":"disks"`) {
		t.Fatalf("%d %+v %s", status, e, body)
	}
	shown(true, 0)
	v.say(map[string]any{"run": "hello"})
	if f := v.answer("result", nil); f["code"] != "maintenance" || !strings.Contains(f["hint"].(string), "config frame") {
		t.Errorf("%v", f)
	}
	check, err := r.client.Check(t.Context())
	if err != nil || len(check.Diff) != 0 {
		t.Errorf("the files differ from themselves: %+v, %v", check, err)
	}
	status, err := r.client.Status(t.Context())
	if err != nil || !status.Maintenance.Global || len(status.Maintenance.Sources) != 1 || status.Jobs[0].Blocked != "maintenance" {
		t.Errorf("%+v, %v", status, err)
	}
	proxy := r.asker("tcp", r.tcp, "X-Forwarded-For", "192.0.2.9")
	if status, e, _ := proxy.ask("POST", "/api/v1/maintenance/off", "{}"); status != 403 || e.Code != "forbidden" {
		t.Errorf("%d %+v", status, e)
	}
	if _, _, body := proxy.ask("GET", "/api/v1/maintenance", ""); !strings.Contains(body, `"global":true`) || !strings.Contains(body, r.dir+`/jobs"`) {
		t.Errorf("%s", body)
	}
	if status, e, body := a.ask("POST", "/api/v1/maintenance/off", ""); status != 200 || !strings.Contains(body, `"still":[]`) || !strings.Contains(body, `"global":false`) {
		t.Errorf("%d %+v %s", status, e, body)
	}
	shown(false, 0)
	if _, e, _ := a.ask("POST", "/api/v1/maintenance/off", `{"reason":"x"}`); e == nil || !strings.Contains(e.Text, "the keys are machines") {
		t.Errorf("%+v", e)
	}
	if _, _, body := r.asker("unix", r.socket).ask("GET", "/api/v1/audit", ""); strings.Count(body, `"what":"maintenance on"`) != 1 || strings.Count(body, `"what":"maintenance off"`) != 1 {
		t.Errorf("%s", body)
	}
}
