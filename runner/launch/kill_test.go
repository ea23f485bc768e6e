package launch

import (
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// shapes are process trees that a kill has to end over this road alone; they
// stand for the A-cases, with the wrapper dead (W01) and alive.
var shapes = []struct {
	name, command string
	count         int
	phase         string
}{
	{"plain", "exec sleep 300", 1, wire.PhaseTerm},
	{"two commands", "sleep 300; sleep 300", 2, wire.PhaseTerm},
	{"setsid", "setsid sleep 300 & sleep 300", 3, wire.PhaseTerm},
	{"ignores TERM", "trap '' TERM; sleep 300; sleep 300", 2, wire.PhaseKill},
	{"setsid and ignores TERM", "setsid sh -c 'trap \"\" TERM; while :; do sleep 300; done' & sleep 300", 4, wire.PhaseKill},
	{"daemon, environment scrubbed", "env -i setsid sh -c 'env -i setsid sleep 300 & sleep 301' & sleep 300", 5, wire.PhaseTerm},
	{"parent gone", "(setsid sleep 300 &) ; setsid sh -c 'sleep 301 & sleep 302 &'", 3, wire.PhaseTerm},
	{"stops itself", "sleep 300 & kill -STOP $$", 2, wire.PhaseTerm},
}

func TestKillShapes(t *testing.T) {
	shells(t, func(t *testing.T, sh shell) {
		for _, shape := range shapes {
			t.Run(shape.name, func(t *testing.T) {
				t.Parallel()
				k := startTask(t, shape.command, taskOptions{})
				k.awaitMembers(shape.count)
				k.loseWrapper()
				res := sh.ask(t, k.request(OpKill))
				k.assertGone(res)
				if res.Phase != shape.phase || res.Before != shape.count || res.Acted != shape.count {
					t.Errorf("phase %q, before %d, acted %d, want %q and %d", res.Phase, res.Before, res.Acted, shape.phase, shape.count)
				}
				if res.MainAlive || res.WrapperAlive || res.Reused || res.Partial {
					t.Errorf("main %v wrapper %v reused %v partial %v", res.MainAlive, res.WrapperAlive, res.Reused, res.Partial)
				}
			})
		}
	})
}

var _ = time.Second
