package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// The tests of this file's users play wrappers of older generations frame by frame,
// over a real WebSocket that is none of ours: what goes over it is the text that a
// frame is, and a connection ends as networks end them.

// plain is one connection of an older wrapper.
type plain struct {
	t      *testing.T
	ws     *websocket.Conn
	base   map[string]any // of every frame
	frames chan *wire.Message
	done   chan struct{}
}

// older connects by an order's URL.
func (r *rig) older(o wire.Order) *plain {
	r.t.Helper()
	return r.plain(o.URL, map[string]any{"job_name": o.Job, "job_instance": o.Run, "machine": o.Machine})
}

func (r *rig) plain(url string, base map[string]any) *plain {
	r.t.Helper()
	ws, answer, err := websocket.DefaultDialer.DialContext(r.t.Context(), url, nil)
	if err != nil {
		if answer != nil {
			err = fmt.Errorf("%w: %s", err, answer.Status)
		}
		r.t.Fatal(err)
	}
	p := &plain{t: r.t, ws: ws, base: base, frames: make(chan *wire.Message, 1<<16), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer close(p.frames)
		for {
			_, data, err := ws.ReadMessage()
			if err != nil {
				return
			}
			m, err := wire.Decode(data)
			if err != nil {
				m = &wire.Message{Type: "unreadable", Text: string(data)}
			}
			p.frames <- m
		}
	}()
	r.t.Cleanup(p.cut)
	return p
}

// say sends a frame made of key, value pairs.
func (p *plain) say(kind string, fields ...any) {
	p.t.Helper()
	if err := p.try(kind, fields...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plain) try(kind string, fields ...any) error {
	frame := map[string]any{"type": kind, "timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")}
	for k, v := range p.base {
		frame[k] = v
	}
	for i := 0; i < len(fields); i += 2 {
		frame[fields[i].(string)] = fields[i+1]
	}
	data, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	return p.raw(data)
}

func (p *plain) raw(frame []byte) error { return p.ws.WriteMessage(websocket.TextMessage, frame) }

// hear returns the next frame, whatever it is.
func (p *plain) hear() *wire.Message {
	p.t.Helper()
	select {
	case m, open := <-p.frames:
		if !open {
			p.t.Fatal("the connection is closed")
		}
		return m
	case <-time.After(testWait):
		p.t.Fatal("no frame came")
	}
	return nil
}

// hears is the next frame in short, which is to be what is wanted.
func (p *plain) hears(want ...string) {
	p.t.Helper()
	for _, w := range want {
		if got := inShort(p.hear()); got != w {
			p.t.Fatalf("heard %q instead of %q", got, w)
		}
	}
}

// hangUp closes by the book, cut as a cable is cut.
func (p *plain) hangUp() {
	_ = p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	p.ws.Close()
	<-p.done
}

func (p *plain) cut() {
	if c, ok := p.ws.NetConn().(*net.TCPConn); ok {
		_ = c.SetLinger(0) // a reset, and nothing of what lies in between
	}
	p.ws.Close()
	<-p.done
}

// inShort is what a frame of the server means.
func inShort(m *wire.Message) string {
	n := func(p *int64) string {
		if p == nil {
			return ""
		}
		return fmt.Sprintf(" %d", *p)
	}
	switch m.Type {
	case wire.TypeAck:
		return "ack " + m.AckType + n(m.Seq)
	case wire.TypeNack:
		return "nack " + m.NackType + n(m.ExpectedSeq) + n(m.ReceivedSeq)
	case wire.TypeSyncResponse:
		return m.Type + n(m.LastSeq)
	}
	return m.Type
}

// serverRole makes the test binary a server that can be killed: its value is a state
// directory and an address.
const serverRole = "SALTPETER_TEST_SERVER"

// serverMain runs a server without anything that fires; it ends with its process.
func serverMain() {
	dir, addr, _ := strings.Cut(os.Getenv(serverRole), "|")
	book, err := ledger.Open(context.Background(), ledger.Options{Dir: filepath.Join(dir, "state")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ts := newTasks(taskOptions{Ledger: book, Transports: map[string]launch.Transport{}, MachinesURL: func(launch.Machine) string { return "" }, Log: log, Hub: newHub()})
	ts.pace = hurried()
	ts.pace.comeback = time.Hour // nobody asks for what the test plays
	unfinished, err := book.Unfinished(context.Background())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ts.adopt(context.Background(), unfinished, func(t ledger.Task) (taskSpec, error) { return taskSpec{}, nil })
	go ts.run(context.Background())
	fmt.Println("ready")
	os.Exit(func() int { wsx.NewServer(wsx.ServerOptions{Handler: handler{ts}, Log: log}).Serve(ln); return 0 }())
}

// mortal is a server in a process of its own, on the rig's state and address. The
// rig itself is stopped while one runs.
type mortal struct {
	cmd  *exec.Cmd
	once sync.Once
}

func (r *rig) mortal() *mortal {
	r.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	m := &mortal{cmd: exec.Command(exe)}
	m.cmd.Env = append(os.Environ(), serverRole+"="+r.dir+"|"+r.addr, "GORACE=atexit_sleep_ms=0")
	m.cmd.Stderr = r.logs
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(m.kill)
	line := make([]byte, 256)
	n, _ := out.Read(line)
	if string(line[:n]) != "ready\n" {
		r.t.Fatalf("the server says %q", line[:n])
	}
	return m
}

// kill is SIGKILL: nothing is closed, nothing is flushed.
func (m *mortal) kill() {
	m.once.Do(func() {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	})
}
