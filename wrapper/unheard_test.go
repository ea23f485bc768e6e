package wrapper

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/testdata/lab"
)

// A wrapper whose server was gone before it said who it is does not open the gate by
// itself: the next server may have started the task again by then.
func TestUnheardStartWaits(t *testing.T) {
	s := newTestServer(t)
	mark := filepath.Join(t.TempDir(), "mark")
	o := testOrder(t, s, "echo ran >"+mark)
	o.Server, o.StartWait = "a server that died", 0.1
	o.URL, o.Socket = "ws://127.0.0.1:1/task/none", "" // nobody listens there
	order, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	said := &lab.Buffer{}
	cmd := wrapperCommand([]string{"--foreground"})
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(order), write, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	waitFor(t, "its word that it waits", func() bool { return strings.Contains(said.String(), "the command waits for a server") })
	time.Sleep(20 * 100 * time.Millisecond) // many times what the gate waits for a server that is only away
	for range 30 {                          // the first ends the job, the next its wrapper
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
			if _, err := os.Stat(mark); err == nil {
				t.Error("the command has run")
			}
			return
		case <-time.After(time.Second):
		}
	}
	t.Errorf("it does not end: %s", said)
}
