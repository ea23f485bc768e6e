package wsx

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/wsx/wire"
)

const (
	benchBytes  = 256 << 20
	benchRounds = 5
)

// flood is an Output of n bytes that costs nothing to read.
type flood struct {
	n       int64
	block   []byte
	changed chan struct{}
}

func (f *flood) ReadAt(p []byte, offset int64) (int, byte, error) {
	return copy(p[:min(int64(len(p)), f.n-offset)], f.block), wire.Stdout, nil
}
func (f *flood) Length() int64            { return f.n }
func (f *flood) Changed() <-chan struct{} { return f.changed }
func (f *flood) Acked(int64)              {}

// drain is a Session that acknowledges each MiB and keeps nothing.
type drain struct {
	c    *Conn
	have int64
	ackd int64
	n    int64
}

func (d *drain) Open(c *Conn) { d.c = c }
func (d *drain) Closed(error) {}
func (d *drain) Message(m *wire.Message) error {
	if m.Type != wire.TypeConnect {
		return nil
	}
	return d.c.Send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeConnect, Features: wire.Features(), Resume: wire.Ptr(int64(0))})
}

func (d *drain) Output(offset int64, _ byte, data []byte) error {
	d.have = offset + int64(len(data))
	if d.have-d.ackd < 1<<20 && d.have < d.n {
		return nil
	}
	d.ackd = d.have
	return d.c.Send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Offset: &d.have})
}

type drains struct{ n int64 }

func (h drains) Connect(context.Context, Claim) (Session, error)    { return &drain{n: h.n}, nil }
func (drains) Order(context.Context, Claim, string) ([]byte, error) { return nil, ErrUnknownToken }

// cpu is what this process has used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type cost struct{ wall, cpu time.Duration }

func median(costs []cost) cost {
	wall, used := []time.Duration{}, []time.Duration{}
	for _, c := range costs {
		wall, used = append(wall, c.wall), append(used, c.cpu)
	}
	slices.Sort(wall)
	slices.Sort(used)
	return cost{wall[len(wall)/2], used[len(used)/2]}
}

// BenchmarkLinkOutput carries 256 MiB from a Link to a Server, and as baselines
// the same bytes over a bare TCP connection and over bare gorilla, in turns;
// medians of five.
func BenchmarkLinkOutput(b *testing.B) {
	p := open(b, nil, func(o *ServerOptions) { o.Handler = drains{benchBytes} })
	for range b.N {
		var raw, gorilla, plain, secure []cost
		for range benchRounds {
			raw = append(raw, measure(func() { copyTCP(b) }))
			gorilla = append(gorilla, measure(func() { copyGorilla(b) }))
			plain = append(plain, measure(func() { copyLink(b, p.dial(false)) }))
			secure = append(secure, measure(func() { copyLink(b, p.dial(true)) }))
		}
		r, g, l, s := median(raw), median(gorilla), median(plain), median(secure)
		mb := float64(benchBytes) / 1e6
		row := func(what, unit string, ours, baseline float64) {
			b.ReportMetric(ours, what+":ours-"+unit)
			b.ReportMetric(baseline, what+":baseline-"+unit)
		}
		b.ReportMetric(0, "ns/op") // all of it together: says nothing
		row("of-raw", "MB/s", mb/l.wall.Seconds(), mb/r.wall.Seconds())
		row("of-gorilla", "MB/s", mb/l.wall.Seconds(), mb/g.wall.Seconds())
		row("tls-of-raw", "MB/s", mb/s.wall.Seconds(), mb/r.wall.Seconds())
		row("cpu-of-raw", "ms/MB", 1000*l.cpu.Seconds()/mb, 1000*r.cpu.Seconds()/mb)
		row("cpu-of-gorilla", "ms/MB", 1000*l.cpu.Seconds()/mb, 1000*g.cpu.Seconds()/mb)
		row("tls-cpu-of-plain", "ms/MB", 1000*s.cpu.Seconds()/mb, 1000*l.cpu.Seconds()/mb)
		b.ReportMetric(2.8, "tls-cpu-of-plain:reach")
	}
}

func measure(f func()) cost {
	runtime.GC()
	wall, used := time.Now(), cpu()
	f()
	return cost{time.Since(wall), cpu() - used}
}

func copyTCP(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	done := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- 0
			return
		}
		defer c.Close()
		var n int64
		buf := make([]byte, 256<<10)
		for {
			k, err := c.Read(buf)
			if n += int64(k); err != nil {
				done <- n
				return
			}
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 256<<10)
	for range benchBytes / len(block) {
		if _, err := c.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	if n := <-done; n != benchBytes {
		b.Fatalf("%d bytes arrived", n)
	}
}

// copyGorilla has no acks, no window and no offsets, but the same buffers.
func copyGorilla(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan int, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 512}
		ws, err := u.Upgrade(w, r, nil)
		if err != nil {
			done <- 0
			return
		}
		defer ws.Close()
		buf, n := make([]byte, frameMax), 0
		for {
			_, m, err := ws.NextReader()
			if err != nil {
				done <- n
				return
			}
			for err == nil {
				var k int
				k, err = m.Read(buf)
				n += k
			}
		}
	})}
	go srv.Serve(ln)
	defer srv.Close()
	d := websocket.Dialer{WriteBufferSize: 64 << 10}
	ws, _, err := d.Dial("ws://"+ln.Addr().String(), nil)
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 256<<10)
	for range benchBytes / len(block) {
		if err := ws.WriteMessage(websocket.BinaryMessage, block); err != nil {
			b.Fatal(err)
		}
	}
	ws.Close()
	if n := <-done; n != benchBytes {
		b.Fatalf("%d bytes arrived", n)
	}
}

func copyLink(b *testing.B, d DialOptions) {
	out := &flood{n: benchBytes, block: make([]byte, frameMax), changed: make(chan struct{})}
	l := NewLink(LinkOptions{Dial: d, Output: out, Connect: func() []*wire.Message {
		return []*wire.Message{{Type: wire.TypeConnect, Features: wire.Features()}}
	}})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	if err := l.AckedAll(ctx, benchBytes); err != nil {
		b.Fatal(err)
	}
	cancel()
	<-done
}

// held is how a child of this test holds connections, so that their cost on its
// side is not measured: the address and the number of them.
const held = "WSX_TEST_HOLD"

// TestHoldConnections is that child.
func TestHoldConnections(t *testing.T) {
	addr, count, ok := strings.Cut(os.Getenv(held), " ")
	if !ok {
		t.Skip("only as a child of the memory test")
	}
	n, _ := strconv.Atoi(count)
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /task/%s HTTP/1.1\r\n%s\r\n", token, handshake)
		if r, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil); err != nil || r.StatusCode != 101 {
			t.Fatal(r, err)
		}
	}
	fmt.Println("HOLDING")
	io.Copy(io.Discard, os.Stdin)
}

// perConnection is how many bytes of heap and stack n connections cost each.
func perConnection(t testing.TB, addr string, n int, connected func() int) float64 {
	t.Helper()
	before := inUse()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldConnections$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", held, addr, n))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	eventually(t, "all connections", func() bool { return connected() == n })
	return float64(inUse()-before) / float64(n)
}

// inUse is the heap and the stacks that are in use, when nothing moves any more.
func inUse() int64 {
	var m runtime.MemStats
	for range 6 { // stacks shrink by half at each collection
		runtime.GC()
		time.Sleep(20 * time.Millisecond)
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// bareServer is what a server with gorilla alone would be: 512 B buffers, a
// write pool, and a reading goroutine for each connection.
func bareServer(t testing.TB) (addr string, connected func() int, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bufs := &buffers{}
	var conns = make(chan *websocket.Conn, 20_000)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 512, WriteBufferPool: &bufs.write}
		ws, err := u.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		conns <- ws
		go func() {
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
			}
		}()
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	return ln.Addr().String(), func() int { return len(conns) }, func() {
		srv.Close()
		<-done
		close(conns)
		for ws := range conns {
			ws.Close()
		}
	}
}

// memory compares n idle connections with as many bare ones. The handler is one
// that keeps nothing, as gorilla's server does.
func memory(t testing.TB, n int) (ours, bare float64) {
	addr, connected, stop := bareServer(t)
	bare = perConnection(t, addr, n, connected)
	stop()
	p := open(t, nil, func(o *ServerOptions) { o.Handler = drains{} })
	ours = perConnection(t, p.addr, n, func() int {
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		return len(p.s.conns)
	})
	p.stop()
	return ours, bare
}

// connections is how many this machine's limits allow, at most want.
func connections(want int) int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return min(want, 500)
	}
	return min(want, int(min(r.Cur, 1<<20))-200)
}

func TestMemoryPerConnection(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory would be measured")
	}
	ours, bare := memory(t, connections(1000))
	t.Logf("%.0f B, bare %.0f B: %.2f times", ours, bare, ours/bare)
	if ours > 1.6*bare {
		t.Errorf("an idle connection costs %.0f B, a bare one %.0f B", ours, bare)
	}
}

func BenchmarkIdleConnections(b *testing.B) {
	n := connections(10_000)
	for range b.N {
		ours, bare := memory(b, n)
		b.ReportMetric(float64(n), "connections")
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ours, "ours-B/conn")
		b.ReportMetric(bare, "baseline-B/conn")
		b.ReportMetric(1.6, "reach")
	}
}
