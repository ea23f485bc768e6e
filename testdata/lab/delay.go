package lab

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Delay opens an address on a host that leads to another one with a delay each
// way: what comes out is what went in, so much later. It ends with the test.
func Delay(t testing.TB, h *Host, address, to string, each time.Duration) {
	t.Helper()
	var l net.Listener
	err := h.Inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatalf("cannot listen on %s of %s: %v", address, h.Name, err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	closed := false
	keep := func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			c.Close()
			return false
		}
		open[c] = true
		return true
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !keep(c) {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var far net.Conn
				if h.Inside(func() (err error) {
					far, err = net.DialTimeout("tcp", to, 20*time.Second)
					return err
				}) != nil || !keep(far) {
					return
				}
				defer far.Close()
				var both sync.WaitGroup
				both.Go(func() { late(far, c, each) })
				both.Go(func() { late(c, far, each) })
				both.Wait()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		closed = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

type piece struct {
	data []byte
	at   time.Time
}

// late copies with a delay. The end of the stream is as late as its bytes.
func late(to, from net.Conn, each time.Duration) {
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				pieces <- piece{buf[:n], time.Now().Add(each)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.data); err != nil {
			from.Close()
			break
		}
	}
	for range pieces { // so that the reader never waits for us
	}
	time.Sleep(each)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
