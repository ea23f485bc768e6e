package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"saltpeter/runner"
)

// Role is what a caller may do. A higher one may do all that a lower one may.
type Role int

const (
	nobody  Role = iota // routes that answer everyone who reaches them
	Read                // look at everything
	Operate             // run, kill, pause, resume, signal, forget
	Admin               // tokens too: the unix socket alone
)

func (r Role) String() string {
	return [...]string{"none", "read", "operate", "admin"}[r]
}

// ParseRole reads a role as configuration and tokens name it.
func ParseRole(s string) (Role, error) {
	switch s {
	case "":
		return nobody, nil
	case "read":
		return Read, nil
	case "operate":
		return Operate, nil
	}
	return nobody, fmt.Errorf("unknown role %q; use read or operate", s)
}

// caller is who makes a request.
type caller struct {
	role Role
	who  string
	from string
}

func (c caller) actor() runner.Actor { return runner.Actor{Who: c.who, From: c.from} }

type (
	peerKey   struct{}
	callerKey struct{}
)

// connContext keeps what the kernel says of the other end of a unix socket. Who
// may connect to it is the file's mode; this is for the audit log.
func connContext(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	peer := caller{role: Admin, who: "unknown", from: "unix"}
	if raw, err := uc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				peer.who = userName(int(cred.Uid))
				peer.from = fmt.Sprintf("unix pid %d", cred.Pid)
			}
		})
	}
	return context.WithValue(ctx, peerKey{}, peer)
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(uid)
}

// guard lets a request through to its route if its caller may.
func (s *Server) guard(r route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		who, err := s.identify(req)
		if err == nil && who.role < r.access {
			err = refuse(who, r.access)
		}
		if err == nil {
			req = req.WithContext(context.WithValue(req.Context(), callerKey{}, who))
			err = r.handle(s, w, req)
		}
		if err != nil {
			s.answerError(w, req, err)
		}
	})
}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

func refuse(who caller, needed Role) error {
	if who.role == nobody {
		return &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Text: "this server wants a token here",
			Hint: "make one on the server with `saltpeter token create NAME --role " + needed.String() + "` and name its file with SALTPETER_TOKEN_FILE"}
	}
	if needed == Admin {
		return &Error{Status: http.StatusForbidden, Code: "forbidden", Text: "tokens are made and revoked over the server's unix socket alone",
			Hint: "do it on the server's machine, as root or in the socket's group"}
	}
	return &Error{Status: http.StatusForbidden, Code: "forbidden", Text: fmt.Sprintf("%s may %s, and this needs %s", who.who, who.role, needed),
		Hint: "make a token of that role with `saltpeter token create NAME --role " + needed.String() + "`"}
}

// identify says who makes a request, and refuses what a browser was tricked into.
func (s *Server) identify(r *http.Request) (caller, error) {
	if peer, ok := r.Context().Value(peerKey{}).(caller); ok {
		return peer, nil
	}
	if err := s.checkBrowser(r); err != nil {
		return caller{}, err
	}
	from := r.RemoteAddr
	if token, given := bearer(r); given {
		name, role, known := s.o.Tokens.Find(token)
		if !known {
			return caller{}, &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Text: "this server does not know the token",
				Hint: "see `saltpeter token list` on the server"}
		}
		return caller{role: role, who: "token " + name, from: from}, nil
	}
	forwarded := r.Header.Get("Forwarded") != "" || r.Header.Get("X-Forwarded-For") != ""
	anonymous := caller{role: s.o.AnonymousRole, who: "anonymous", from: from}
	if forwarded {
		anonymous.from += " (through a proxy)"
	}
	if s.o.Tokens.Any() || !loopback(r.RemoteAddr) {
		return anonymous, nil
	}
	// No token exists: this machine's own users may come in, but what a proxy
	// hands on is not theirs.
	least := Operate
	if forwarded {
		least = Read
	}
	anonymous.role = max(anonymous.role, least)
	return anonymous, nil
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// checkBrowser refuses a Host that is not ours, which is how a rebound name
// shows, and an Origin that is neither ours nor allowed.
func (s *Server) checkBrowser(r *http.Request) error {
	if !s.ownHost(r.Host) {
		return &Error{Status: http.StatusForbidden, Code: "host_refused", Text: fmt.Sprintf("this server is not called %q", hostOnly(r.Host)),
			Hint: fmt.Sprintf("if it is, add it to saltpeter_config: api_ws_allowed_hosts: [%q]", hostOnly(r.Host))}
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err == nil && (u.Host == r.Host || slices.Contains(s.o.Hosts, u.Host) || slices.Contains(s.o.Hosts, u.Hostname())) {
		return nil
	}
	return &Error{Status: http.StatusForbidden, Code: "origin_refused", Text: fmt.Sprintf("pages of %s may not call this server", origin),
		Hint: fmt.Sprintf("to allow them, add to saltpeter_config: api_ws_allowed_hosts: [%q]", hostOf(u))}
}

func hostOf(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Host
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

// ownHost reports whether a Host header names this server. An address cannot be
// rebound; a name must be known.
func (s *Server) ownHost(hostport string) bool {
	host := hostOnly(hostport)
	if host == "" || host == "localhost" || net.ParseIP(host) != nil {
		return true
	}
	if name, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(name, ".")
		if strings.EqualFold(host, name) || strings.EqualFold(host, short) {
			return true
		}
	}
	return slices.ContainsFunc(s.o.Hosts, func(h string) bool { return strings.EqualFold(h, host) || strings.EqualFold(h, hostport) })
}
