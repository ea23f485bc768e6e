package wrapper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

const (
	pumpMin  = 4 << 10   // what an idle pump holds
	pumpMax  = 256 << 10 // what a busy one reads at once
	pipeSize = 1 << 20   // asked for once a job shows that it prints much
	// In separate mode a change of stream costs a record: a pump that reads
	// little at a time waits so long between reads, so that a job which
	// alternates bytes can't fill the index.
	separatePause = 5 * time.Millisecond
)

// outputPipes are the job's standard output and error. Each is read by a
// goroutine of its own that waits for the spool's disk, and for nothing else longer
// than a moment.
type outputPipes struct {
	Stdout, Stderr *os.File // for the job; the same one unless separate
	readers        []*os.File
	wg             sync.WaitGroup
	EOF            chan struct{} // closed once every pipe has ended
}

func openPipes(separate bool) (*outputPipes, error) {
	p := &outputPipes{EOF: make(chan struct{})}
	r, w, err := openPipe()
	if err != nil {
		return nil, err
	}
	p.readers, p.Stdout, p.Stderr = append(p.readers, r), w, w
	if separate {
		r, w, err := openPipe()
		if err != nil {
			p.Stdout.Close()
			p.Close()
			return nil, err
		}
		p.readers, p.Stderr = append(p.readers, r), w
	}
	return p, nil
}

// openPipe makes a pipe whose writing end blocks, as programs expect, while the
// reading end is for Go's poller.
func openPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe for the output: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("cannot make a pipe for the output: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(fds[1]), "output"), nil
}

// Start begins to read.
func (p *outputPipes) Start(s *spool) {
	for i, r := range p.readers {
		stream, pause := wire.Stdout, time.Duration(0)
		if i > 0 {
			stream = wire.Stderr
		}
		if len(p.readers) > 1 {
			pause = separatePause
		}
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			pump(r, stream, s, pause)
		}()
	}
	go func() {
		p.wg.Wait()
		close(p.EOF)
	}()
}

// Close closes the reading ends: who still writes gets EPIPE.
func (p *outputPipes) Close() {
	for _, r := range p.readers {
		r.Close()
	}
}

// pump moves a pipe into the spool until it ends. Its buffer grows with what the
// job prints, up to the spool's blocks, and shrinks when nothing comes any more.
func pump(r *os.File, stream byte, s *spool, pause time.Duration) {
	size, buf := pumpMin, make([]byte, pumpMin)
	road := pacer{s: s}
	var last time.Time
	for {
		var b *block
		if size == pumpMax {
			b = s.takeBlock()
			buf = b.buf
			_ = r.SetReadDeadline(time.Now().Add(coolAfter))
		}
		n, err := r.Read(buf)
		now := time.Now()
		switch {
		case b != nil:
			s.AppendBlock(b, n, stream, now)
		case n > 0:
			s.Append(stream, buf[:n], now)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.coolDown()
			_ = r.SetReadDeadline(time.Time{})
			size, buf = pumpMin, make([]byte, pumpMin)
			continue
		}
		if err != nil {
			return
		}
		if n == size && size < pumpMax {
			if n >= 64<<10 {
				// Best effort: a user's share of large pipes is limited.
				growPipe(r)
			}
			if size = min(4*n, pumpMax); size < pumpMax {
				buf = make([]byte, size)
			}
		}
		if b != nil {
			road.wait()
		}
		if pause > 0 && n < pumpMin && now.Sub(last) < pause {
			time.Sleep(pause)
		}
		last = now
	}
}

func growPipe(r *os.File) {
	conn, err := r.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
}
