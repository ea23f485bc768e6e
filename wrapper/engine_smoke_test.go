package wrapper

import (
	"testing"

	"saltpeter/wsx/wire"
)

func TestEngine(t *testing.T) {
	l := buildLab(t)
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			bystander(t, m)
			r := l.newRig(t, m, wire.Order{Command: "sleep 300", KillGrace: 1})
			r.open()
			r.send(rigCommand{Op: "kill", ID: "k1", Cause: wire.CauseKill})
			n := r.wait("report")
			t.Logf("%+v", n)
			a, b := r.finish()
			t.Logf("%+v %+v", a, b)
		})
	}
}
