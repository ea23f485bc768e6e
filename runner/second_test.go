package runner

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// wrapperOf starts a real wrapper of an order. Its words go to out.
func (r *rig) wrapperOf(o wire.Order, out io.Writer) *exec.Cmd {
	r.t.Helper()
	text, err := o.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	c := exec.Command(exe, "wrap", "--foreground")
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "XDG_STATE_HOME=" + r.dir}
	c.Stdin, c.Stdout = bytes.NewReader(text), out
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// ends waits for a wrapper's own end.
func (r *rig) ends(c *exec.Cmd) {
	r.t.Helper()
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		_ = c.Process.Kill()
		<-done
		r.t.Fatal("the wrapper did not end")
	}
}

// A wrapper that reads its order only when the task has run with another one does not
// run it again, and changes nothing that is recorded: neither one whose start somebody
// reads, nor one whose server has gone.
func TestSecondWrapper(t *testing.T) {
	for _, heard := range []bool{true, false} {
		t.Run(fmt.Sprintf("heard=%v", heard), func(t *testing.T) {
			r, road := newFakeRig(t)
			mark := filepath.Join(r.dir, "mark")
			s := r.spec("fake", "echo ran >>"+mark+"; exit 3")
			id := s.Task.TaskID
			o := r.launched(road, s)
			o.SpoolDir = filepath.Join(r.dir, "spool")
			r.ends(r.wrapperOf(o, io.Discard))
			before := r.awaitState(id, ledger.Failed)

			var out io.Writer = io.Discard
			if !heard {
				read, write, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				read.Close()
				defer write.Close()
				out = write
			}
			r.ends(r.wrapperOf(o, out))
			if ran, err := os.ReadFile(mark); err != nil || string(ran) != "ran\n" {
				t.Errorf("%q %v", ran, err)
			}
			if after := r.task(id); !reflect.DeepEqual(after, before) {
				t.Errorf("the record was\n%+v\nand is\n%+v", before, after)
			}
			if n := r.endings(id); n != 1 {
				t.Errorf("its end was told %d times", n)
			}
		})
	}
}
