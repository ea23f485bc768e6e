package wsx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

// A wrapper on the server's own machine has a shorter way than TCP and TLS: a unix
// socket, which the file system gives to the server's user alone. Whoever opens
// such a path could play the server, so the kernel is asked whose it is before a
// byte is said.

// errNotTheirs: the socket belongs to neither root nor this user.
var errNotTheirs = errors.New("the socket is another user's")

// overSocket connects by the server's socket; nil: there is no such way now, and
// TCP is tried.
func (o *DialOptions) overSocket(ctx context.Context, d websocket.Dialer, url string) *websocket.Conn {
	if o.Socket == "" {
		return nil
	}
	d.NetDialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", o.Socket)
		if err != nil {
			return nil, err
		}
		if err := checkPeer(c); err != nil {
			c.Close()
			return nil, err
		}
		local := &localConn{UnixConn: c.(*net.UnixConn)}
		_ = local.SetWriteBuffer(localBuffer) // as much of it as the system allows
		return local, nil
	}
	d.TLSClientConfig = nil
	ws, resp, err := d.DialContext(ctx, url, o.header())
	if err != nil {
		return nil
	}
	if resp.Header.Get(headerOurs) == "" {
		ws.Close()
		return nil
	}
	return ws
}

// checkPeer says no to a listener that is neither root's nor this user's.
func checkPeer(c net.Conn) error {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil {
		return e
	}
	if err != nil {
		return fmt.Errorf("cannot tell whose the socket is: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return errNotTheirs
	}
	return nil
}

const (
	// wholeLeast is the least output that goes past gorilla's buffer: shorter
	// frames have another header.
	wholeLeast = 64 << 10
	// localBuffer lets a sender put down whole frames while the server is busy
	// with the last one.
	localBuffer = 1 << 20
)

// localConn is the client's end of the server's socket. Masks keep what stands
// between two programs from taking what they send for something else; here nothing
// does, so output goes out as it lies in memory, under a mask of zeros. Any server
// can read that.
type localConn struct {
	*net.UnixConn
	frame net.Buffers // goes out in place of the next binary frame; of the Conn's writing turn
}

// send writes one binary message. To gorilla it is an empty one, so that it keeps
// its order with control frames, its deadline, and what follows from an error.
func (l *localConn) send(ws *websocket.Conn, header, data []byte) error {
	h := append(make([]byte, 0, 14+len(header)), 0x80|websocket.BinaryMessage, 0x80|127)
	h = binary.BigEndian.AppendUint64(h, uint64(len(header)+len(data)))
	h = append(h, 0, 0, 0, 0) // the mask
	l.frame = net.Buffers{append(h, header...), data}
	ws.SetWriteDeadline(time.Now().Add(writeWait))
	err := ws.WriteMessage(websocket.BinaryMessage, nil)
	l.frame = nil
	return err
}

// Write gets one frame, or a piece of one that is no binary frame's beginning.
// Control frames come at any time and from other goroutines.
func (l *localConn) Write(p []byte) (int, error) {
	if len(p) == 0 || p[0] != 0x80|websocket.BinaryMessage || l.frame == nil {
		return l.UnixConn.Write(p)
	}
	if _, err := l.frame.WriteTo(l.UnixConn); err != nil {
		return 0, err
	}
	return len(p), nil
}
