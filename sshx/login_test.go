package sshx

import (
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"saltpeter/testdata/lab"
)

// newKey makes a key in a folder of its own.
func newKey(t testing.TB, kind string) (path, pub string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "id")
	pub, err := lab.WriteKey(path, kind, "")
	if err != nil {
		t.Fatal(err)
	}
	return path, pub
}

func readKey(t testing.TB, path string) any {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// lock makes a key's file one with a passphrase that nobody knows. A real one takes
// seconds of key derivation under the race detector, and nothing here opens it.
func lock(t testing.TB, path string) {
	t.Helper()
	b := ssh.Marshal(struct {
		Cipher, KDF, Options string
		Keys                 uint32
		Public, Private      string
	}{"aes256-ctr", "bcrypt", string(ssh.Marshal(struct {
		Salt   string
		Rounds uint32
	}{"0123456789abcdef", 16})), 1, string(readPublic(path + ".pub").Marshal()), strings.Repeat("?", 160)})
	b = pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: append([]byte("openssh-key-v1\x00"), b...)})
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveAgent serves an agent with some keys on a socket.
func serveAgent(t testing.TB, keys ...agent.AddedKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "sp-agent-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				agent.ServeAgent(ring, conn)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		os.RemoveAll(dir)
	})
	return path
}

// sign makes a user's certificate, beside the key, and returns it.
func sign(t testing.TB, ca, key string, until time.Time, principals ...string) *ssh.Certificate {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(readKey(t, ca))
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: readPublic(key + ".pub"), CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: principals,
		ValidAfter: uint64(time.Now().Add(-2 * time.Hour).Unix()), ValidBefore: uint64(until.Unix()), Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}}}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o644); err != nil {
		t.Fatal(err)
	}
	return cert
}

func authorize(t testing.TB, s *lab.Server, lines ...string) {
	t.Helper()
	if err := s.Authorize(s.User, lines...); err != nil {
		t.Fatal(err)
	}
}

func TestLogin(t *testing.T) {
	ca, _ := newKey(t, "ed25519")
	s := lab.SSHD(t, lab.SSHDOptions{Config: []string{"TrustedUserCAKeys " + ca + ".pub"}})
	with := func(files ...string) func(*Options) {
		return func(o *Options) { o.IdentityFiles = files }
	}
	ok := func(t *testing.T, change ...func(*Options)) {
		t.Helper()
		c, _ := client(t, s, change...)
		mustRun(t, c, s.Host, "true")
	}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			key, pub := newKey(t, kind)
			authorize(t, s, pub)
			ok(t, with(key))
		})
	}
	t.Run("certificate", func(t *testing.T) {
		authorize(t, s)
		key, _ := newKey(t, "ed25519")
		sign(t, ca, key, time.Now().Add(time.Hour), s.User)
		ok(t, with(key))
	})
	t.Run("certificate of an rsa key", func(t *testing.T) {
		authorize(t, s)
		key, _ := newKey(t, "rsa")
		sign(t, ca, key, time.Now().Add(time.Hour), s.User)
		ok(t, with(key))
	})
	t.Run("certificate that has ended", func(t *testing.T) {
		authorize(t, s)
		key, _ := newKey(t, "ed25519")
		sign(t, ca, key, time.Now().Add(-time.Hour), s.User)
		c, _ := client(t, s, with(key))
		_, _, _, err := run(c, s.Host, "true")
		if e := fails(t, err, ErrLogin, StageLogin); !strings.Contains(e.Error(), "has ended on") {
			t.Errorf("%v does not say that the certificate has ended", e)
		}
	})
	t.Run("agent", func(t *testing.T) {
		key, pub := newKey(t, "ed25519")
		authorize(t, s, pub)
		t.Setenv("SSH_AUTH_SOCK", serveAgent(t, agent.AddedKey{PrivateKey: readKey(t, key)}))
		ok(t, with())
	})
	t.Run("certificate in the agent", func(t *testing.T) {
		authorize(t, s)
		key, _ := newKey(t, "ed25519")
		cert := sign(t, ca, key, time.Now().Add(time.Hour), s.User)
		t.Setenv("SSH_AUTH_SOCK", serveAgent(t, agent.AddedKey{PrivateKey: readKey(t, key), Certificate: cert}))
		ok(t, with())
	})
	t.Run("file with a passphrase that the agent has opened", func(t *testing.T) {
		key, pub := newKey(t, "ed25519")
		opened := readKey(t, key)
		lock(t, key)
		authorize(t, s, pub)
		other, _ := newKey(t, "ed25519")
		t.Setenv("SSH_AUTH_SOCK", serveAgent(t, agent.AddedKey{PrivateKey: readKey(t, other)}, agent.AddedKey{PrivateKey: opened}))
		ok(t, with(key), func(o *Options) { o.Config = config(t, "IdentitiesOnly yes", "IdentityFile none") })
	})
	t.Run("file with a passphrase alone", func(t *testing.T) {
		key, pub := newKey(t, "ed25519")
		lock(t, key)
		authorize(t, s, pub)
		c, _ := client(t, s, with(key))
		_, _, _, err := run(c, s.Host, "true")
		e := fails(t, err, ErrLogin, StageLogin)
		if !strings.Contains(e.Error(), key+" has a passphrase") || !strings.Contains(e.Hint, "ssh-add") {
			t.Errorf("%v names neither the passphrase nor the agent", e)
		}
	})
	t.Run("seven keys in the agent, the named one counts", func(t *testing.T) {
		key, pub := newKey(t, "ed25519")
		authorize(t, s, pub)
		var many []agent.AddedKey
		for range 7 {
			other, _ := newKey(t, "ed25519")
			many = append(many, agent.AddedKey{PrivateKey: readKey(t, other)})
		}
		t.Setenv("SSH_AUTH_SOCK", serveAgent(t, many...))
		ok(t, with(key))
	})
	t.Run("too many keys", func(t *testing.T) {
		_, pub := newKey(t, "ed25519")
		authorize(t, s, pub)
		var many []string
		for range 8 {
			other, _ := newKey(t, "ed25519")
			many = append(many, other)
		}
		c, _ := client(t, s, with(many...))
		_, _, _, err := run(c, s.Host, "true")
		fails(t, err, ErrLogin, StageLogin)
	})
	t.Run("refused", func(t *testing.T) {
		key, _ := newKey(t, "ed25519")
		authorize(t, s)
		c, _ := client(t, s, with(key))
		_, _, _, err := run(c, s.Host, "true")
		if e := fails(t, err, ErrLogin, StageLogin); !strings.Contains(e.Error(), key) || e.User != s.User {
			t.Errorf("%v (user %s) does not say who came with what", e, e.User)
		}
	})
	t.Run("no key", func(t *testing.T) {
		c, _ := client(t, s, with())
		_, _, _, err := run(c, s.Host, "true")
		if e := fails(t, err, ErrLogin, StageLogin); !strings.Contains(e.Error(), "no key to offer") || !strings.Contains(e.Hint, "ssh-keygen") {
			t.Errorf("%v", e)
		}
	})
	t.Run("agent that does not answer", func(t *testing.T) {
		key, pub := newKey(t, "ed25519")
		authorize(t, s, pub)
		t.Setenv("SSH_AUTH_SOCK", filepath.Join(t.TempDir(), "none"))
		ok(t, with(key))
	})
	t.Run("agent that hangs", func(t *testing.T) {
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Skip(err)
		}
		defer ln.Close()
		t.Setenv("SSH_AUTH_SOCK", ln.Addr().String())
		key, pub := newKey(t, "ed25519")
		authorize(t, s, pub)
		ok(t, with(key), func(o *Options) { o.HandshakeTimeout = 12 * time.Second })
	})
}

func TestHostKeys(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{HostKeys: []string{"ed25519", "ecdsa"}})
	name := fmt.Sprintf("[%s]:%d", s.Host, s.Port)
	file := func(t *testing.T, lines ...string) (string, func(*Options)) {
		path := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil { // without a newline at its end
			t.Fatal(err)
		}
		return path, func(o *Options) { o.KnownHosts = path }
	}
	var pubs []string
	for _, k := range s.HostKeys {
		b, err := os.ReadFile(k + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		pubs = append(pubs, strings.TrimSpace(string(b)))
	}
	_, foreign := newKey(t, "ed25519")
	t.Run("each known key alone will do", func(t *testing.T) {
		for _, pub := range pubs {
			_, known := file(t, name+" "+pub)
			c, _ := client(t, s, known)
			mustRun(t, c, s.Host, "true")
		}
	})
	t.Run("hashed", func(t *testing.T) {
		_, known := file(t, "# hashed", hashed(name)+" "+pubs[0])
		c, _ := client(t, s, known)
		mustRun(t, c, s.Host, "true")
	})
	t.Run("unknown", func(t *testing.T) {
		path, known := file(t, "[elsewhere]:22 "+pubs[0])
		c, _ := client(t, s, known)
		_, _, _, err := run(c, s.Host, "true")
		e := fails(t, err, ErrHostKeyUnknown, StageHostKey)
		if !strings.Contains(e.Hint, path) || !strings.Contains(e.Hint, strings.Fields(pubs[0])[1]) && !strings.Contains(e.Hint, strings.Fields(pubs[1])[1]) {
			t.Errorf("the hint holds no line to add: %s", e.Hint)
		}
		line, print, err := c.AcceptHostKey(t.Context(), s.Host)
		if err != nil || line == "" || !strings.HasPrefix(print, "SHA256:") {
			t.Fatalf("%q %q %v", line, print, err)
		}
		mustRun(t, c, s.Host, "true") // the file is read anew
		if line, again, err := c.AcceptHostKey(t.Context(), s.Host); line != "" || again != print || err != nil {
			t.Fatalf("accepted twice: %q %q %v", line, again, err)
		}
	})
	t.Run("no file at all", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "new", "known_hosts")
		c, _ := client(t, s, func(o *Options) { o.KnownHosts = path })
		_, _, _, err := run(c, s.Host, "true")
		fails(t, err, ErrHostKeyUnknown, StageHostKey)
		if _, _, err := c.AcceptHostKey(t.Context(), s.Host); err != nil {
			t.Fatal(err)
		}
		mustRun(t, c, s.Host, "true")
	})
	t.Run("changed", func(t *testing.T) {
		path, known := file(t, name+" "+foreign)
		c, _ := client(t, s, known)
		_, _, _, err := run(c, s.Host, "true")
		e := fails(t, err, ErrHostKeyChanged, StageHostKey)
		if !strings.Contains(e.Hint, "ssh-keygen -R") || !strings.Contains(e.Error(), path+":1") {
			t.Errorf("%v", e)
		}
		if _, _, err := c.AcceptHostKey(t.Context(), s.Host); err == nil {
			t.Fatal("a changed key was accepted")
		}
		if b, _ := os.ReadFile(path); string(b) != name+" "+foreign {
			t.Fatalf("the file was changed: %s", b)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		_, known := file(t, name+" "+pubs[0], "@revoked * "+pubs[0])
		c, _ := client(t, s, known)
		_, _, _, err := run(c, s.Host, "true")
		fails(t, err, ErrHostKeyChanged, StageHostKey)
	})
	t.Run("a line that is none", func(t *testing.T) {
		path, known := file(t, "# fine", "what is this")
		c, _ := client(t, s, known)
		_, _, _, err := run(c, s.Host, "true")
		if e := fails(t, err, nil, StageHostKey); !strings.Contains(e.Error(), path+":2") {
			t.Errorf("%v does not name the line", e)
		}
	})
}

// hashed writes a host's name as HashKnownHosts does.
func hashed(name string) string { return knownhosts.HashHostname(name) }

func TestHostCertificate(t *testing.T) {
	ca, caLine := newKey(t, "ed25519")
	key, _ := newKey(t, "ed25519")
	signer, err := ssh.NewSignerFromKey(readKey(t, ca))
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: readPublic(key + ".pub"), CertType: ssh.HostCert, KeyId: "host", ValidPrincipals: []string{"127.0.0.1"},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix())}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o644); err != nil {
		t.Fatal(err)
	}
	s := lab.SSHD(t, lab.SSHDOptions{OwnHostKeys: []string{key}, Config: []string{"HostCertificate " + key + "-cert.pub"}})
	write := func(line string) func(*Options) {
		path := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return func(o *Options) { o.KnownHosts = path }
	}
	c, _ := client(t, s, write("@cert-authority * "+caLine))
	mustRun(t, c, s.Host, "true")
	_, other := newKey(t, "ed25519")
	c, _ = client(t, s, write("@cert-authority * "+other))
	_, _, _, err = run(c, s.Host, "true")
	fails(t, err, ErrHostKeyChanged, StageHostKey)
	c, _ = client(t, s, write("@cert-authority elsewhere "+caLine)) // not its authority: the plain key is asked for
	_, _, _, err = run(c, s.Host, "true")
	fails(t, err, ErrHostKeyUnknown, StageHostKey)
}
