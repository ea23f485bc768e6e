package sshx

import (
	"errors"
	"strings"
)

// What an *Error is about, for errors.Is. With the first four nothing ran on the
// far side. No error matches two of them.
var (
	// ErrUnreachable: no connection, or none that spoke SSH within the deadline.
	ErrUnreachable = errors.New("unreachable")
	// ErrHostKeyUnknown: no known_hosts file has a key of that host.
	ErrHostKeyUnknown = errors.New("host key unknown")
	// ErrHostKeyChanged: a known_hosts file has another key of that host.
	ErrHostKeyChanged = errors.New("host key changed")
	// ErrLogin: the far side took none of our keys.
	ErrLogin = errors.New("login refused")
	// ErrRefused: logged in, and the far side then refused what was asked: a session,
	// a command, a forwarding.
	ErrRefused = errors.New("refused by the far side")
)

// The stages of a command on its way, as Error tells them.
const (
	StageResolve   = "resolve"
	StageConnect   = "connect"
	StageJump      = "jump"
	StageHandshake = "handshake"
	StageHostKey   = "host key"
	StageLogin     = "login"
	StageSession   = "session"
	StageCommand   = "command"
)

// Error is what every failure of this package is.
type Error struct {
	Target string // as the caller named it
	User   string
	Addr   string // HOST:PORT; "" before it was resolved
	Stage  string
	// Sent says whether the command may have reached the far side. False: certainly
	// nothing ran.
	Sent bool
	Kind error // one of the above, or nil
	Err  error
	Hint string // what to type next; "" where nothing would help
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("cannot " + e.doing() + ": ")
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else if e.Kind != nil {
		b.WriteString(e.Kind.Error())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

func (e *Error) doing() string {
	where := e.Target
	if e.Addr != "" && e.Addr != e.Target {
		where += " (" + e.Addr + ")"
	}
	switch e.Stage {
	case StageResolve:
		return "tell where " + e.Target + " is"
	case StageJump:
		return "reach " + where
	case StageHandshake:
		return "speak SSH with " + where
	case StageHostKey:
		return "trust " + where
	case StageLogin:
		if e.User != "" {
			return "log in to " + where + " as " + e.User
		}
		return "log in to " + where
	case StageSession:
		return "open a session on " + where
	case StageCommand:
		if e.Sent {
			return "tell how the command ended on " + where
		}
		return "run the command on " + where
	}
	return "connect to " + where
}

func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinels above.
func (e *Error) Is(target error) bool { return e.Kind != nil && target == e.Kind }
