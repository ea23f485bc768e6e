package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"saltpeter/runner"
	"saltpeter/wsx"
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
	role  Role
	who   string
	from  string
	token bool   // it came with one
	proxy string // by what a request without one shows that a proxy handed it on; "" = it does not
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
	peer := func() caller { return caller{role: Admin, who: "unknown", from: "unix"} }
	if raw, err := uc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				// Names are looked up by the first request, not by who accepts.
				peer = sync.OnceValue(func() caller {
					return caller{role: Admin, who: userName(int(cred.Uid)), from: fmt.Sprintf("unix pid %d", cred.Pid)}
				})
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
	switch {
	case needed == Admin:
		return &Error{Status: http.StatusForbidden, Code: "forbidden", Text: "tokens are made and revoked over the server's unix socket alone",
			Hint: "do it on the server's machine, as root or in the socket's group"}
	case who.role == nobody:
		return &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Text: "this server wants a token here", Hint: aToken(needed) +
			" and name its file with SALTPETER_TOKEN_FILE; or let everybody in who can reach it, with this line in saltpeter_config: api_anonymous_role: " + needed.String()}
	case who.token:
		return &Error{Status: http.StatusForbidden, Code: "forbidden", Text: fmt.Sprintf("%s may %s, and this needs %s", who.who, who.role, needed), Hint: aToken(needed)}
	}
	here := "here"
	if who.proxy != "" {
		here = "through a proxy (" + who.proxy + " shows that there is one)"
	}
	return &Error{Status: http.StatusForbidden, Code: "forbidden", Text: fmt.Sprintf("without a token one may %s %s, and this needs %s", who.role, here, needed),
		Hint: aToken(needed) + "; or let everybody in who can reach it, with this line in saltpeter_config: api_anonymous_role: " + needed.String()}
}

func aToken(role Role) string {
	return "make a token on the server with `saltpeter token create NAME --role " + role.String() + "`"
}

// identify says who makes a request, and refuses what a browser was tricked into.
func (s *Server) identify(r *http.Request) (caller, error) {
	if peer, ok := r.Context().Value(peerKey{}).(func() caller); ok {
		return peer(), nil
	}
	set := s.set().Settings
	if err := checkBrowser(r, slices.Concat(set.APIAllowedHosts, []string{set.ServerHost})); err != nil {
		return caller{}, err
	}
	from := r.RemoteAddr
	tokens, broken := s.o.Tokens.load()
	if token, given := bearer(r); given {
		name, role, known := find(tokens, token)
		switch {
		case broken != nil:
			return caller{}, errTokensBroken
		case !known:
			return caller{}, &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Text: "this server does not know the token",
				Hint: "see `saltpeter token list` on the server"}
		}
		return caller{role: role, who: "token " + name, from: from, token: true}, nil
	}
	role, _ := ParseRole(set.APIAnonymousRole) // config takes no other words
	anonymous := caller{role: role, who: "anonymous", from: from}
	if anonymous.proxy = handedOn(r, set.ServerHost); anonymous.proxy != "" {
		anonymous.from += " (through a proxy)"
	}
	switch {
	case !loopback(r.RemoteAddr):
	case broken != nil:
		if anonymous.role == nobody {
			return caller{}, errTokensBroken
		}
	case len(tokens) > 0:
	case anonymous.proxy != "": // what a proxy on this machine hands on is not this machine's
		anonymous.role = max(anonymous.role, Read)
	default: // no token exists: this machine's own users may come in
		anonymous.role = max(anonymous.role, Operate)
	}
	return anonymous, nil
}

// errTokensBroken keeps everybody out who would need a token: nobody knows what a
// file says that cannot be read.
var errTokensBroken = &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Text: "the server cannot read its file of tokens",
	Hint: "mend the file; the server's log names the line. The unix socket is open all the while"}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token), true
	}
	return offeredToken(r)
}

// tokenProtocol is what a page offers beside uiProtocol to show its token: a browser
// lets a page set no other header of a WebSocket, and an address with a token in it
// would be written into the log of every proxy.
const tokenProtocol = "saltpeter.token."

// offeredToken reads the token among the subprotocols that a page offers; it is in
// base64url, since a subprotocol is one word.
func offeredToken(r *http.Request) (string, bool) {
	if !wsx.WantsUpgrade(r) {
		return "", false
	}
	for _, offer := range wsx.Offers(r) {
		if coded, ok := strings.CutPrefix(offer, tokenProtocol); ok {
			token, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(coded, "="))
			if err != nil {
				return "", true // one that nobody has
			}
			return string(token), true
		}
	}
	return "", false
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
func checkBrowser(r *http.Request, allowed []string) error {
	if !ownHost(r.Host, allowed) {
		return &Error{Status: http.StatusForbidden, Code: "host_refused", Text: fmt.Sprintf("this server is not called %q", hostOnly(r.Host)),
			Hint: fmt.Sprintf("if it is, add this line to saltpeter_config: api_ws_allowed_hosts: [%q]", hostOnly(r.Host))}
	}
	origins, given := r.Header["Origin"]
	if !given {
		return nil
	}
	origin := strings.Join(origins, " ")
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return &Error{Status: http.StatusForbidden, Code: "origin_refused", Text: fmt.Sprintf("a page of unknown origin (%q) may not call this server", origin),
			Hint: "open the page from a web server whose name stands in api_ws_allowed_hosts of saltpeter_config"}
	}
	if strings.EqualFold(u.Host, r.Host) || named(allowed, u.Host) {
		return nil
	}
	return &Error{Status: http.StatusForbidden, Code: "origin_refused", Text: fmt.Sprintf("pages of %s may not call this server", origin),
		Hint: fmt.Sprintf("to allow them, add this line to saltpeter_config: api_ws_allowed_hosts: [%q]", u.Host)}
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

// ownHost reports whether a Host header names this server. An address cannot be
// rebound; a name must be known.
func ownHost(hostport string, allowed []string) bool {
	host := strings.TrimSuffix(hostOnly(hostport), ".")
	return host == "" || net.ParseIP(host) != nil || ownName(host) || named(allowed, hostport)
}

// ownName reports whether a host is what every machine calls itself, or this one's
// name.
func ownName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	name, err := os.Hostname()
	short, _, _ := strings.Cut(name, ".")
	return err == nil && (strings.EqualFold(host, name) || strings.EqualFold(host, short))
}

// named reports whether a host is one of those that people wrote: a name for
// every port, a name with a port, or a whole origin.
func named(list []string, hostport string) bool {
	return slices.ContainsFunc(list, func(h string) bool {
		if _, rest, isOrigin := strings.Cut(h, "://"); isOrigin {
			h = strings.TrimSuffix(rest, "/")
		}
		return h != "" && (strings.EqualFold(h, hostport) || strings.EqualFold(h, hostOnly(hostport)))
	})
}
