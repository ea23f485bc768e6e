package launch

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"saltpeter/wsx/wire"
)

// conformBare is what every transport has to do for commands without a wrapper.
func conformBare(t *testing.T, g rig, tr Transport) {
	road := tr.(Bare)
	order := func(command string, change func(*wire.Order)) []byte {
		return olderOrder(t, func(o *wire.Order) {
			o.Command, o.Run, o.Task = command, "bare_"+t.Name(), "bare"+strings.ReplaceAll(t.Name(), "/", "")
			if change != nil {
				change(o)
			}
		})
	}
	t.Run("result and output", func(t *testing.T) {
		k := &bareKeeper{}
		res := road.Run(soon(t), g.machine, order("echo \"$A\"; echo err >&2; exit 7", func(o *wire.Order) { o.Env = map[string]string{"A": "a'b\n$c"} }), k.task())
		if res.Certainty != Started || res.Code == nil || *res.Code != 7 {
			t.Errorf("%+v", res)
		}
		if got := k.text(); !strings.Contains(got, "a'b\n$c\n") || !strings.Contains(got, "err\n") {
			t.Errorf("output %q", got)
		}
		if k.id.PID <= 1 || k.id.StartTicks == 0 || k.id.BootID == "" {
			t.Errorf("identity %+v", k.id)
		}
	})
	t.Run("refused", func(t *testing.T) {
		dir := t.TempDir()
		k := &bareKeeper{no: true}
		res := road.Run(soon(t), g.machine, order("touch "+dir+"/ran", nil), k.task())
		if res.Certainty != CertainlyNot || k.id.PID == 0 {
			t.Errorf("%+v", res)
		}
		eventually(t, "the shell is gone", func() bool { p, ok := lookAt(k.id.PID); return !ok || !p.alive() || p.start != k.id.StartTicks })
		if _, err := os.Stat(dir + "/ran"); err == nil {
			t.Error("it ran")
		}
		res = road.Run(soon(t), g.machine, order("true", func(o *wire.Order) { o.Cwd = "/no/such/place" }), k.task())
		if res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), "/no/such/place") {
			t.Errorf("%+v", res)
		}
	})
	t.Run("killed by its identity", func(t *testing.T) {
		k := &bareKeeper{begun: make(chan struct{})}
		ended := make(chan BareResult, 1)
		go func() {
			ended <- road.Run(soon(t), g.machine, order("sleep 300 & setsid sleep 301 & sleep 302", nil), k.task())
		}()
		<-k.begun
		eventually(t, "its processes", func() bool { return len(childrenOf(k.id.PID)) == 3 })
		res, err := tr.Script(soon(t), g.machine, ScriptRequest{Op: OpKill, Task: k.id.Task, Identity: &k.id})
		if err != nil || res.Outcome != wire.OutcomeGone || res.Before < 4 {
			t.Errorf("%+v, %v", res, err)
		}
		if res := <-ended; res.Certainty == CertainlyNot || res.Code != nil && *res.Code != 128+15 || res.Code == nil && res.Signal != 15 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("let go of", func(t *testing.T) {
		k := &bareKeeper{begun: make(chan struct{})}
		ctx, cancel := context.WithCancel(soon(t))
		ended := make(chan BareResult, 1)
		go func() { ended <- road.Run(ctx, g.machine, order("exec sleep 303", nil), k.task()) }()
		<-k.begun
		eventually(t, "the command", func() bool { p, ok := lookAt(k.id.PID); return ok && p.comm == "sleep" })
		cancel()
		if res := <-ended; res.Certainty != Unsure || !res.Cut {
			t.Errorf("%+v", res)
		}
		if p, ok := lookAt(k.id.PID); !ok || !p.alive() {
			t.Error("it was ended")
		}
		if res, err := tr.Script(soon(t), g.machine, ScriptRequest{Op: OpKill, Task: k.id.Task, Identity: &k.id}); err != nil || res.Outcome != wire.OutcomeGone {
			t.Errorf("%+v, %v", res, err)
		}
	})
}

// bareKeeper keeps what it is told.
type bareKeeper struct {
	no    bool
	begun chan struct{}
	id    wire.Identity
	mu    sync.Mutex
	out   strings.Builder
}

func (k *bareKeeper) task() BareTask {
	return BareTask{
		Started: func(id wire.Identity) bool {
			k.id = id
			if k.begun != nil {
				close(k.begun)
			}
			return !k.no
		},
		Output: func(_ byte, data []byte) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.out.Write(data)
		},
	}
}

func (k *bareKeeper) text() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.String()
}
