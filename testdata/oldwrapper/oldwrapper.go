// Package oldwrapper is the wrappers of both older generations, as programs that
// really run a command: a test binary in another role. They do what docs/protocol.md
// says of theirs and know nothing of ours: settings by environment, no identity, no
// features. What they signal is the process that they started, and nobody else.
//
// The job's environment is theirs, so that is also how a test makes one misbehave:
// OLD_DEAF ignores kills, OLD_TWICE sends the last output twice.
package oldwrapper

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// Role is how a test binary knows that it is one: its generation.
const Role = "SALTPETER_TEST_GENERATION"

// Write makes a program for wrapper_path in a folder. The test binary at exe calls
// Main where Role is set.
func Write(dir, exe string, generation int) (string, error) {
	path := filepath.Join(dir, "wrapper.py")
	script := fmt.Sprintf("#!/bin/sh\nexport %s=%d\nexec '%s' \"$@\"\n", Role, generation, exe)
	return path, os.WriteFile(path, []byte(script), 0o755)
}

type oldWrapper struct {
	second bool
	cmd    *exec.Cmd

	mu      sync.Mutex
	conn    *wsx.Conn
	acks    chan *wire.Message
	buf     []byte
	unacked []*wire.Message
	seq     int64
	killed  bool
	timeout bool
}

// Main is the program; it never returns.
func Main() {
	url := os.Getenv("SP_WEBSOCKET_URL")
	if url == "" || os.Getenv("SP_COMMAND") == "" || os.Getenv("SP_JOB_INSTANCE") == "" {
		fmt.Println("Saltpeter Wrapper version 0.9.31")
		fmt.Fprintln(os.Stderr, "SP_WEBSOCKET_URL, SP_COMMAND and SP_JOB_INSTANCE are required")
		os.Exit(1)
	}
	w := &oldWrapper{second: os.Getenv(Role) == "2", acks: make(chan *wire.Message, 1000)}
	if err := w.run(url); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func (w *oldWrapper) message(kind string) *wire.Message {
	return &wire.Message{Type: kind, JobName: os.Getenv("SP_JOB_NAME"), JobInstance: os.Getenv("SP_JOB_INSTANCE"),
		Machine: os.Getenv("SP_MACHINE_ID"), Timestamp: wire.FormatTime(time.Now())}
}

func (w *oldWrapper) send(m *wire.Message) {
	w.mu.Lock()
	c := w.conn
	w.mu.Unlock()
	if c != nil {
		_ = c.Send(m) // it is sent again after a reconnect, or is lost
	}
}

func (w *oldWrapper) run(url string) error {
	if err := w.dial(url); err != nil && !w.second {
		return err
	}
	w.send(w.message(wire.TypeConnect))
	if w.second {
		w.awaitAck(wire.TypeConnect, 2*time.Second)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	w.cmd = exec.Command("/bin/sh", "-c", os.Getenv("SP_COMMAND"))
	w.cmd.Stdout, w.cmd.Stderr = in, in
	w.cmd.Dir = os.Getenv("SP_CWD")
	if err := w.cmd.Start(); err != nil {
		m := w.message(wire.TypeError)
		m.Error = err.Error()
		w.send(m)
		return err
	}
	in.Close()
	start := w.message(wire.TypeStart)
	start.PID, start.Version = w.cmd.Process.Pid, "0.9.31"
	w.send(start)
	if w.second {
		w.awaitAck(wire.TypeStart, 2*time.Second)
	}
	ended := make(chan struct{})
	go w.watch(ended)
	if w.second {
		return w.reportSecond(url, out, ended)
	}
	return w.reportFirst(out, ended)
}

// dial connects and reads what comes.
func (w *oldWrapper) dial(url string) error {
	c, err := wsx.Dial(context.Background(), wsx.DialOptions{URL: url, Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.conn = c
	w.mu.Unlock()
	go func() {
		for {
			_, data, err := c.Read()
			if err != nil {
				w.mu.Lock()
				if w.conn == c {
					w.conn = nil
				}
				w.mu.Unlock()
				return
			}
			if m, err := wire.Decode(data); err == nil {
				w.heard(m)
			}
		}
	}()
	return nil
}

func (w *oldWrapper) heard(m *wire.Message) {
	switch {
	case m.Type == wire.TypeKill && os.Getenv("OLD_DEAF") == "":
		w.mu.Lock()
		w.killed = true
		w.mu.Unlock()
		w.send(w.message(wire.TypeKilled))
		_ = w.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	case m.Type == wire.TypeAck && m.AckType == wire.TypeOutput && m.Seq != nil:
		w.mu.Lock()
		for len(w.unacked) > 0 && *w.unacked[0].Seq <= *m.Seq {
			w.unacked = w.unacked[1:]
		}
		w.mu.Unlock()
	case m.Type == wire.TypeAck:
		w.acks <- m
	case m.Type == wire.TypeNack:
		w.resend()
	}
}

func (w *oldWrapper) awaitAck(kind string, most time.Duration) bool {
	limit := time.After(most)
	for {
		select {
		case m := <-w.acks:
			if m.AckType == kind {
				return true
			}
		case <-limit:
			return false
		}
	}
}

// watch enforces the timeout.
func (w *oldWrapper) watch(ended chan struct{}) {
	seconds, _ := strconv.Atoi(os.Getenv("SP_TIMEOUT"))
	if seconds <= 0 {
		return
	}
	select {
	case <-ended:
	case <-time.After(time.Duration(seconds) * time.Second):
		w.mu.Lock()
		w.timeout = true
		w.mu.Unlock()
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// code is the end of the job as these wrappers tell it: negative for a signal.
func (w *oldWrapper) code() int {
	var exit *exec.ExitError
	if err := w.cmd.Wait(); errors.As(err, &exit) {
		if s := exit.Sys().(syscall.WaitStatus); s.Signaled() {
			return -int(s.Signal())
		}
		return exit.ExitCode()
	}
	return 0
}

// closing is the line that it adds.
func (w *oldWrapper) closing() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.timeout:
		return "\n[Job exceeded timeout of " + os.Getenv("SP_TIMEOUT") + " seconds]\n"
	case w.killed:
		return "\n[Job terminated by user request]\n"
	}
	return ""
}

// reportFirst: a frame for each line, nothing is awaited, the whole text again.
func (w *oldWrapper) reportFirst(out io.Reader, ended chan struct{}) error {
	var all bytes.Buffer
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if line != "" {
				all.WriteString(line)
				m := w.message(wire.TypeOutput)
				m.Stream, m.Data = "stdout", line
				w.send(m)
			}
			if err != nil {
				return
			}
		}
	}()
	code := w.code()
	close(ended)
	select {
	case <-lines:
	case <-time.After(300 * time.Millisecond): // somebody holds the pipe
	}
	m := w.message(wire.TypeComplete)
	m.RetCode, m.Output = &code, strings.Clone(all.String())+w.closing()
	w.send(m)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn.Close("done")
}

// reportSecond: numbered pieces that are kept until they are acknowledged.
func (w *oldWrapper) reportSecond(url string, out io.Reader, ended chan struct{}) error {
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := out.Read(buf)
			w.mu.Lock()
			w.buf = append(w.buf, buf[:n]...)
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	code := make(chan int, 1)
	go func() { code <- w.code(); close(ended) }()
	beat := time.Now()
	for running := true; running; {
		select {
		case c := <-code:
			code <- c
			time.Sleep(50 * time.Millisecond) // what is in the pipe
			running = false
		case <-time.After(100 * time.Millisecond):
		}
		if time.Since(beat) > time.Second {
			beat = time.Now()
			w.send(w.message(wire.TypeHeartbeat))
		}
		w.reconnect(url)
		w.flush("stdout")
	}
	if line := w.closing(); line != "" {
		w.mu.Lock()
		w.buf = []byte(line)
		w.mu.Unlock()
		w.flush("stderr")
	}
	if os.Getenv("OLD_TWICE") != "" {
		w.resend()
	}
	m := w.message(wire.TypeComplete)
	c := <-code
	m.RetCode, m.Seq = &c, &w.seq
	for began := time.Now(); time.Since(began) < time.Minute; {
		w.send(m)
		if w.awaitAck(wire.TypeComplete, 2*time.Second) {
			return nil
		}
		w.reconnect(url)
	}
	return errors.New("nobody took the end")
}

// reconnect does not introduce itself again: it says what was not acknowledged.
func (w *oldWrapper) reconnect(url string) {
	w.mu.Lock()
	there := w.conn != nil
	w.mu.Unlock()
	if !there && w.dial(url) == nil {
		w.resend()
	}
}

func (w *oldWrapper) resend() {
	w.mu.Lock()
	again := append([]*wire.Message(nil), w.unacked...)
	w.mu.Unlock()
	for _, m := range again {
		w.send(m)
	}
}

func (w *oldWrapper) flush(stream string) {
	w.mu.Lock()
	if len(w.buf) == 0 {
		w.mu.Unlock()
		return
	}
	m, seq := w.message(wire.TypeOutput), w.seq
	m.Stream, m.Data, m.Seq = stream, string(w.buf), &seq
	w.buf, w.seq = nil, w.seq+1
	w.unacked = append(w.unacked, m)
	w.mu.Unlock()
	w.send(m)
}
