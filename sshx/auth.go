package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// keyring is what one login can offer, and what it can't and why. It belongs to
// the goroutine of its handshake until that has ended.
type keyring struct {
	signers  []ssh.Signer
	names    []string // of the signers, for people
	problems []string
	locked   []string // files with a passphrase that no agent has opened
	agent    net.Conn
}

// close lets go of the agent; a signature that it still owes fails.
func (k *keyring) close() {
	if k.agent != nil {
		k.agent.Close()
	}
}

func (k *keyring) add(s ssh.Signer, name string) {
	for _, have := range k.signers {
		if same(have.PublicKey(), s.PublicKey()) {
			return
		}
	}
	k.signers = append(k.signers, s)
	k.names = append(k.names, name)
}

func same(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// gather collects keys in the order of their promise, since sshd counts tries
// (MaxAuthTries 6): the named files, with their certificates first, then what the
// agent has, then the usual files.
func (k *keyring) gather(ctx context.Context, p *place) {
	held := k.ask(ctx, p)
	certs := []*ssh.Certificate{}
	for _, f := range p.certs {
		if cert, err := readCert(f); err != nil {
			k.problems = append(k.problems, err.Error())
		} else {
			certs = append(certs, cert)
		}
	}
	for _, f := range p.IdentityFiles {
		k.file(f, held, certs, true)
	}
	if !p.IdentitiesOnly {
		for _, s := range held {
			k.certified(s, "agent "+ssh.FingerprintSHA256(s.PublicKey()), certs)
			k.add(s, "agent "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	for _, f := range p.usual {
		k.file(f, held, certs, false)
	}
}

// ask lists the agent's keys. An agent that hangs has a quarter of the time that
// is left, so that the files still have their turn; a signature may take all of it,
// since a person may have to touch something.
func (k *keyring) ask(ctx context.Context, p *place) []ssh.Signer {
	if p.agent == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.agent)
	if err != nil {
		k.problems = append(k.problems, fmt.Sprintf("the agent at %s does not answer: %v", p.agent, err))
		return nil
	}
	k.agent = conn
	deadline, ok := ctx.Deadline()
	if ok {
		conn.SetDeadline(time.Now().Add(time.Until(deadline) / 4))
	}
	held, err := agent.NewClient(conn).Signers()
	if ok {
		conn.SetDeadline(deadline)
	}
	if err != nil {
		k.problems = append(k.problems, fmt.Sprintf("the agent at %s does not tell its keys: %v", p.agent, err))
	}
	return held
}

// file adds a private key, through the agent where only that can open it.
func (k *keyring) file(path string, held []ssh.Signer, certs []*ssh.Certificate, named bool) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if pub := readPublic(path + ".pub"); pub != nil { // the private half lives in the agent alone
			if s := find(held, pub); s != nil {
				k.take(s, path, certs)
				return
			}
		}
		if named {
			k.problems = append(k.problems, path+" does not exist")
		}
		return
	}
	if err != nil {
		k.problems = append(k.problems, err.Error())
		return
	}
	signer, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		k.take(signer, path, certs)
	case errors.As(err, &locked):
		pub := locked.PublicKey
		if pub == nil {
			pub = readPublic(path + ".pub")
		}
		if s := find(held, pub); s != nil {
			k.take(s, path, certs)
			return
		}
		k.locked = append(k.locked, path)
		k.problems = append(k.problems, path+" has a passphrase and is not in the agent")
	default:
		k.problems = append(k.problems, fmt.Sprintf("%s is no private key: %v", path, err))
	}
}

// take adds a key with the certificates that are for it before it.
func (k *keyring) take(s ssh.Signer, path string, certs []*ssh.Certificate) {
	if cert, err := readCert(path + "-cert.pub"); err == nil {
		certs = append([]*ssh.Certificate{cert}, certs...)
	} else if !errors.Is(err, os.ErrNotExist) {
		k.problems = append(k.problems, err.Error())
	}
	k.certified(s, path, certs)
	k.add(s, path)
}

func (k *keyring) certified(s ssh.Signer, name string, certs []*ssh.Certificate) {
	for _, cert := range certs {
		if !same(cert.Key, s.PublicKey()) {
			continue
		}
		if until := cert.ValidBefore; until != ssh.CertTimeInfinity && time.Now().Unix() >= int64(until) {
			k.problems = append(k.problems, fmt.Sprintf("the certificate of %s has ended on %s", name, time.Unix(int64(until), 0).UTC().Format(time.DateTime)))
		}
		if signer, err := ssh.NewCertSigner(cert, s); err == nil {
			k.add(signer, name+" with its certificate")
		}
	}
}

func find(held []ssh.Signer, pub ssh.PublicKey) ssh.Signer {
	for _, s := range held {
		if pub != nil && same(s.PublicKey(), pub) {
			return s
		}
	}
	return nil
}

func readPublic(path string) ssh.PublicKey {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil
	}
	return pub
}

func readCert(path string) (*ssh.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s is no certificate", path)
	}
	return cert, nil
}

// refused says why a login with these keys may have failed.
func (k *keyring) refused(p *place) (hint string, why error) {
	text := "there is no key to offer"
	if len(k.names) > 0 {
		text = "it took none of our keys (" + strings.Join(k.names, ", ") + ")"
	}
	for _, problem := range k.problems {
		text += "; " + problem
	}
	switch {
	case len(k.locked) > 0:
		hint = "open the key for the agent, and start this program with its SSH_AUTH_SOCK: ssh-add " + Quote(k.locked[0])
	case len(k.names) == 0:
		hint = "make a key with ssh-keygen -t ed25519 and put its .pub file into ~" + p.User + "/.ssh/authorized_keys there"
	default:
		hint = "try: ssh -v " + p.User + "@" + p.Host + " -p " + fmt.Sprint(p.Port) + " true; the key's .pub file belongs into ~" + p.User + "/.ssh/authorized_keys there"
	}
	return hint, errors.New(text)
}
