package runner

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/runner/ledger"
)

// These tests play connections without a token that take room and do not say whose they
// are. All of 127.0.0.0/8 is this machine: that gives them addresses.

func patientDoor(r *rig) { r.pace.first, r.pace.yield = time.Hour, time.Hour }

// room bounds the silent ones of a test.
func (r *rig) room(n int) {
	f := &r.tasks.foreigners
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = n
}

func (r *rig) silent() (silent, named int) {
	f := &r.tasks.foreigners
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.silent), f.named
}

// stranger opens a connection from an address and says nothing. The status is that of
// one that is refused.
func (r *rig) stranger(from string) (ws *websocket.Conn, status int) {
	r.t.Helper()
	dialer := websocket.Dialer{NetDialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
	ws, answer, err := dialer.DialContext(r.t.Context(), "ws://"+r.addr+"/", nil)
	if err != nil {
		if answer == nil {
			r.t.Fatal(err)
		}
		return nil, answer.StatusCode
	}
	r.t.Cleanup(func() { ws.Close() })
	return ws, 101
}

// heartbeat is the first frame of a wrapper that comes back and has nothing else to say.
func heartbeat(run string) []byte {
	return fmt.Appendf(nil, `{"type":"heartbeat","job_name":"job","job_instance":%q,"machine":"m1"}`, run)
}

// adopted waits for a run that was taken over.
func (r *rig) adopted(run string) {
	r.t.Helper()
	r.await("the adoption of "+run, func() bool {
		return r.tasks.find(ledger.TaskID{Run: run, Machine: "m1"}) != nil
	})
}

// closes waits for the end of a connection that the server closes.
func closes(t *testing.T, ws *websocket.Conn) {
	t.Helper()
	ws.SetReadDeadline(time.Now().Add(testWait))
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			if e, is := err.(net.Error); is && e.Timeout() {
				t.Error("it was not closed")
			}
			return
		}
	}
}

// Who does not say whose it is has its time, and then no room any more.
func TestForeignersMustSayWhoseTheyAre(t *testing.T) {
	r := newRig(t, adopting, func(r *rig) { r.pace.first = 300 * time.Millisecond })
	quiet, _ := r.stranger("127.0.0.1")
	odd, _ := r.stranger("127.0.0.1")
	if err := odd.WriteMessage(websocket.TextMessage, []byte(`{"type":"greeting","job_name":"job","job_instance":"job_1","machine":"m1"}`)); err != nil {
		t.Fatal(err)
	}
	closes(t, quiet)
	closes(t, odd)
	if _, err := r.book.Run(t.Context(), "job_1"); err == nil {
		t.Error("a frame of no known type began a run")
	}
	r.await("the room", func() bool { silent, named := r.silent(); return silent+named == 0 })
}

// What is no frame at all ends the connection at once, and is logged once.
func TestForeignersThatSayNonsense(t *testing.T) {
	r := newRig(t, adopting, patientDoor)
	for _, text := range []string{"", "hello", "{}", `{"type":7}`, `[1]`, `{"type":"heartbeat"}`} {
		ws, _ := r.stranger("127.0.0.1")
		if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
		closes(t, ws)
	}
	r.await("the room", func() bool { silent, named := r.silent(); return silent+named == 0 })
	if n := strings.Count(r.logs.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// A first frame that takes longer than that to come is waited for.
func TestForeignersWithALongFirstFrame(t *testing.T) {
	r := newRig(t, adopting, func(r *rig) { r.pace.first = 3 * time.Second })
	ws, _ := r.stranger("127.0.0.1")
	w, err := ws.NextWriter(websocket.TextMessage)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 64<<10) // more than the client keeps back
	if _, err := fmt.Fprintf(w, `{"type":"complete","job_name":"job","job_instance":"job_1764360000","machine":"m1","retcode":0,"output":"%s`, text); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.await("its time to be over", func() bool { return time.Since(began) > r.pace.first+time.Second })
	if _, err := w.Write([]byte(`"}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	end := r.awaitRecorded(ledger.TaskID{Run: "job_1764360000", Machine: "m1"}, ledger.Succeeded)
	if got := r.output(end.TaskID); got != text {
		t.Errorf("%d bytes", len(got))
	}
}

// awaitRecorded is awaitState for a task that is still to be begun.
func (r *rig) awaitRecorded(id ledger.TaskID, state ledger.State) ledger.Task {
	r.t.Helper()
	r.adopted(id.Run)
	return r.awaitState(id, state)
}

// Silent connections from one address keep out nobody who comes from another.
func TestSilentForeignersMakeRoom(t *testing.T) {
	r := newRig(t, adopting, patientDoor)
	for range foreignSilent {
		if _, status := r.stranger("127.0.0.2"); status != 101 {
			t.Fatalf("status %d", status)
		}
	}
	ws, status := r.stranger("127.0.0.1")
	if status != 101 {
		t.Fatalf("a wrapper from another address was refused with %d", status)
	}
	if err := ws.WriteMessage(websocket.TextMessage, heartbeat("job_1764360000")); err != nil {
		t.Fatal(err)
	}
	r.adopted("job_1764360000")
	// It has left its place, and the next one is theirs again. Among their own nobody
	// goes before its heartbeat was due.
	if _, status := r.stranger("127.0.0.2"); status != 101 {
		t.Errorf("status %d", status)
	}
	for range 20 {
		if _, status := r.stranger("127.0.0.2"); status != 503 {
			t.Fatalf("status %d", status)
		}
	}
	if silent, named := r.silent(); silent != foreignSilent || named != 1 {
		t.Errorf("%d silent, %d named", silent, named)
	}
	logs := r.logs.String()
	if n := strings.Count(logs, "level=WARN"); n != 1 || !strings.Contains(logs, "keep strangers off the machines port") {
		t.Errorf("%d warnings", n)
	}
}

// Who has said whose it is stays, however many come that say nothing.
func TestNamedForeignersStay(t *testing.T) {
	r := newRig(t, adopting, func(r *rig) { r.pace.first, r.pace.yield = time.Hour, 0 })
	r.room(5)
	p := r.foreigner("job", "job_1764360000", "m1")
	p.say("heartbeat")
	r.adopted("job_1764360000")
	var first *websocket.Conn
	for i := range 20 {
		ws, status := r.stranger("127.0.0.1")
		if status != 101 {
			t.Fatalf("status %d", status)
		}
		if i == 0 {
			first = ws
		}
	}
	closes(t, first) // the oldest made room
	p.say("output", "stream", "stdout", "data", "still here", "seq", 0)
	p.hears("ack output 0")
	if silent, named := r.silent(); silent != 5 || named != 1 {
		t.Errorf("%d silent, %d named", silent, named)
	}
}

// A fleet behind one address comes back all at once, more than there is room for, each
// silent until its next heartbeat: all get in, beside strangers that never say anything.
func TestFleetBehindOneAddress(t *testing.T) {
	const room, fleet = 10, 60
	r := newRig(t, adopting, func(r *rig) { r.pace.first, r.pace.yield = time.Hour, 2*time.Second })
	r.room(room)
	var wg sync.WaitGroup
	for range room {
		ws, _ := r.stranger("127.0.0.1")
		wg.Go(func() { closes(t, ws) }) // they answer pings
	}
	for i := range fleet {
		wg.Go(func() {
			for began := time.Now(); time.Since(began) < testWait; {
				ws, status := r.stranger("127.0.0.1")
				if status != 101 {
					time.Sleep(50 * time.Millisecond)
					continue
				}
				time.Sleep(100 * time.Millisecond)
				if ws.WriteMessage(websocket.TextMessage, heartbeat(fmt.Sprintf("job_%d", 1764360000+i))) == nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range fleet {
		r.adopted(fmt.Sprintf("job_%d", 1764360000+i))
	}
}

func TestAddressOf(t *testing.T) {
	for remote, want := range map[string]string{
		"10.1.2.3:4567": "10.1.2.3", "[::ffff:10.1.2.3]:4567": "10.1.2.3", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "@": "@",
	} {
		if got := addressOf(remote); got != want {
			t.Errorf("%s: %s", remote, got)
		}
	}
}
