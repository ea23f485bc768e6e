package wsx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

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
		return c, nil
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
