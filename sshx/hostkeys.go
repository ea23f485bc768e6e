package sshx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// trust reads known_hosts files, and reads them anew when one has changed.
type trust struct {
	mu  sync.Mutex
	dbs map[string]*trusted
}

type trusted struct {
	stamp string
	db    *knownhosts.HostKeyDB
	err   error
}

func (t *trust) load(files []string) (*knownhosts.HostKeyDB, error) {
	var stamp strings.Builder
	var there []string
	for _, f := range files {
		info, err := os.Stat(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) && f != files[0] {
			continue
		}
		if err != nil {
			return nil, err
		}
		there = append(there, f)
		fmt.Fprintf(&stamp, "%s %d %d", f, info.Size(), info.ModTime().UnixNano())
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintf(&stamp, " %d", st.Ino)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := strings.Join(files, "\x00")
	if have := t.dbs[key]; have != nil && have.stamp == stamp.String() {
		return have.db, have.err
	}
	db, err := knownhosts.NewDB(there...)
	t.dbs[key] = &trusted{stamp: stamp.String(), db: db, err: err}
	return db, err
}

// algorithms are what a host is asked to prove itself with: those of its known
// keys first, so that a host with several keys shows the one that is known, then
// the others, so that a changed one is seen and named. Certificates are asked for
// only where their authority is known.
func algorithms(db *knownhosts.HostKeyDB, name string) []string {
	known := db.HostKeyAlgorithms(name)
	list := []string{}
	for _, a := range known {
		if a != ssh.KeyAlgoRSA && a != ssh.CertAlgoRSAv01 { // SHA-1 signatures: the SHA-2 ones stand beside them
			list = append(list, a)
		}
	}
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		if !slices.Contains(list, a) && !strings.Contains(a, "-cert-v01@") {
			list = append(list, a)
		}
	}
	return list
}

// check judges a host key. What it returns is an *Error, or nil.
func (p *place) check(db *knownhosts.HostKeyDB, name string, remote net.Addr, key ssh.PublicKey) *Error {
	err := db.HostKeyCallback()(name, remote, key)
	if err == nil {
		return nil
	}
	e := &Error{Target: p.Target, User: p.User, Addr: p.Addr(), Stage: StageHostKey, Kind: ErrHostKeyChanged}
	shows := fmt.Sprintf("it shows the %s key %s", key.Type(), ssh.FingerprintSHA256(key))
	file := p.KnownHosts[0]
	var revoked *xknownhosts.RevokedError
	var keys *xknownhosts.KeyError
	switch {
	case errors.As(err, &revoked):
		e.Err = fmt.Errorf("%s, which %s:%d says is revoked", shows, revoked.Revoked.Filename, revoked.Revoked.Line)
		e.Hint = "give the machine a new host key"
	case errors.As(err, &keys) && len(keys.Want) == 0:
		e.Kind = ErrHostKeyUnknown
		e.Err = fmt.Errorf("%s, and no known_hosts file knows it (%s)", shows, strings.Join(p.KnownHosts, ", "))
		e.Hint = fmt.Sprintf("if that is what ssh-keygen -lf prints for the key file in the machine's /etc/ssh, type: echo %s >>%s", Quote(knownhosts.Line([]string{name}, key)), Quote(file))
	case errors.As(err, &keys):
		var known []string
		for _, w := range keys.Want {
			known = append(known, fmt.Sprintf("%s %s (%s:%d)", w.Key.Type(), ssh.FingerprintSHA256(w.Key), w.Filename, w.Line))
		}
		file = keys.Want[0].Filename
		e.Err = fmt.Errorf("THE HOST KEY HAS CHANGED: %s, and known is %s: another machine answers there, or it was installed anew", shows, strings.Join(known, ", "))
		e.Hint = fmt.Sprintf("only if you know why, take the old key out: ssh-keygen -R %s -f %s", Quote(knownhosts.Normalize(name)), Quote(file))
	default:
		e.Err = fmt.Errorf("%s: %w", shows, err)
		e.Hint = "look at the host's certificate: ssh-keygen -Lf FILE-cert.pub"
	}
	return e
}

// peeked is a host key and what the known_hosts files say to it.
type peeked struct {
	key     ssh.PublicKey
	verdict *Error
}

// hostKeys is what the known_hosts files say.
type hostKeys = *knownhosts.HostKeyDB

// errSeen ends a handshake once the host key is known.
var errSeen = errors.New("that was all")

// AcceptHostKey is the deliberate first contact: it asks the target for its host
// key and, where none is known, appends it to the first known_hosts file. It
// refuses where another key is known. An empty line with a fingerprint says that
// the key was known already.
func (c *Client) AcceptHostKey(ctx context.Context, target string) (line, fingerprint string, err error) {
	p, err := c.resolve(target)
	if err != nil {
		return "", "", err
	}
	done, err := c.enter()
	if err != nil {
		return "", "", closedError(p, err)
	}
	defer done()
	first := *p
	first.peek = make(chan peeked, 1)
	_, e := c.dial(ctx, &first) // always fails: the callback never says yes
	var seen ssh.PublicKey
	var verdict *Error
	select {
	case got := <-first.peek:
		seen, verdict = got.key, got.verdict
	default:
		return "", "", e
	}
	fingerprint = ssh.FingerprintSHA256(seen)
	switch {
	case verdict == nil:
		return "", fingerprint, nil
	case verdict.Kind != ErrHostKeyUnknown:
		return "", fingerprint, verdict
	}
	line = knownhosts.Line([]string{p.HostKeyName}, seen)
	if err := appendLine(p.KnownHosts[0], line); err != nil {
		verdict.Err, verdict.Kind, verdict.Hint = err, nil, ""
		return "", fingerprint, verdict
	}
	c.log.Info("host key accepted", "machine", target, "fingerprint", fingerprint, "file", p.KnownHosts[0])
	return line, fingerprint, nil
}

// appendLine adds a line with one write, so that two at once do not mix.
func appendLine(path, line string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		line = "\n" + line
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
