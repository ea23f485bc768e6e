package launch

import (
	"os"
	"path/filepath"
	"testing"

	"saltpeter/sshx"
	"saltpeter/testdata/lab"
)

// sshClient knows the sshd's host key and has a key that it takes.
func sshClient(t testing.TB, d *lab.Server) *sshx.Client {
	t.Helper()
	c, err := sshx.New(sshx.Options{IdentityFiles: []string{d.Key}, KnownHosts: d.KnownHosts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// login is the sshd's address for whoever the test is.
func login(d *lab.Server) string {
	if d.World != nil {
		return "root@" + d.Addr
	}
	return d.User + "@" + d.Addr
}

func needWorld(t testing.TB, d *lab.Server) {
	t.Helper()
	if d.World == nil {
		t.Skip("needs root: users of its own")
	}
}

// userSpool is a spool of spuser's.
func userSpool(t testing.TB, d *lab.Server) string {
	t.Helper()
	u := d.World.Users["spuser"]
	dir := filepath.Join(d.World.Dir, "place", "spool")
	for _, path := range []string{filepath.Dir(dir), dir} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, u.UID, u.GID); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}
