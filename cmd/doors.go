package cmd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"saltpeter/wsx"
)

// listenSocket opens the unix socket. A file that a server left behind is taken
// away; one that answers belongs to a server that runs.
func listenSocket(path, group string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := privateDir(dir); err != nil {
		return nil, failed(err, "name another socket with --socket")
	}
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	// Born without rights for others: between bind and chmod nobody else may in.
	old := syscall.Umask(0o177)
	ln, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, failed(fmt.Errorf("cannot open the socket: %w", err), "name another with --socket")
	}
	if err := shareSocket(path, group); err != nil {
		ln.Close()
		return nil, failed(err, "see socket_group in saltpeter_config")
	}
	return ln, nil
}

// machinesSocket is where wrappers on this machine connect; "" where the path is
// longer than a socket's may be.
func (d *daemon) machinesSocket() string {
	path, err := filepath.Abs(d.o.socket + ".wrappers")
	if err != nil || len(path) > 107 {
		return ""
	}
	return path
}

// openMachinesSocket opens it for this user alone. Without it wrappers use the
// machines port. The socket of the API is open already: what lies here is no other
// server's.
func (d *daemon) openMachinesSocket() net.Listener {
	path := d.machinesSocket()
	if path == "" {
		return nil
	}
	err := clearSocket(path)
	if err == nil {
		old := syscall.Umask(0o177)
		var ln net.Listener
		ln, err = net.Listen("unix", path)
		syscall.Umask(old)
		if err == nil {
			d.closeLater(func() { ln.Close() })
			return ln
		}
	}
	d.log.Warn("wrappers on this machine use the machines port: cannot open their socket", "err", err)
	return nil
}

// clearSocket takes away the socket that a dead server left, and nothing else.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed(fmt.Errorf("cannot open the socket: %w", err), "name another with --socket")
	}
	if info.Mode().Type() != fs.ModeSocket {
		return &failure{code: exitFailed, stable: "no_socket", text: path + " is there already, and is no socket", hint: "name another with --socket; the file was left as it is"}
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return &failure{code: exitFailed, stable: "socket_in_use", text: "another server answers on " + path,
			hint: "stop it first, or give this one a socket of its own with --socket"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return failed(fmt.Errorf("cannot tell whether a server uses %s: %w", path, err), "name another with --socket")
}

// privateDir makes a folder of this user's, or checks that it is one: a folder
// below /tmp may be somebody else's trap.
func privateDir(dir string) error {
	shared := !strings.HasPrefix(dir, filepath.Clean(os.TempDir())+string(filepath.Separator))
	mode := fs.FileMode(0o700)
	if shared {
		mode = 0o755
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("cannot make the socket's folder: %w", err)
	}
	if shared {
		return nil
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("cannot use the folder %s: others may write there", dir)
	}
	return nil
}

// shareSocket gives the socket to root and to one group.
func shareSocket(path, group string) error {
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("cannot give the socket to group %q: %w", group, err)
		}
		gid, err := strconv.Atoi(g.Gid)
		if err != nil {
			return err
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return fmt.Errorf("cannot give the socket to group %q: %w", group, err)
		}
	}
	return os.Chmod(path, 0o660)
}

// machinesTLS is what the machines port shows: the operator's certificate, or
// one that the server made for itself on its first start, which wrappers of ours
// know by the hash of its key.
func (d *daemon) machinesTLS() (pin string, c *tls.Config, err error) {
	switch mode := d.set.Settings.MachinesTLS; mode {
	case "off":
		return "", nil, nil
	case "", "auto":
	default:
		c, err := operatorTLS(mode)
		if err != nil {
			return "", nil, failed(err, "machines_ws_tls is auto, off, or \"CERTIFICATE,KEY\", two PEM files")
		}
		return "", c, nil
	}
	// A new key would lock out the wrappers of unfinished tasks.
	return d.ownTLS("machines", nil, "put %[2]s back from a backup; without one, remove it and %[1]s when nothing runs any more")
}

// apiTLS is what the API port shows: the operator's certificate, the server's own,
// or none. Plain clients share the port all the same.
func (d *daemon) apiTLS() (*tls.Config, error) {
	s := &d.set.Settings
	if s.APITLS != "auto" {
		c, err := operatorTLS(s.APITLS)
		if err != nil {
			return nil, failed(err, "api_ws_tls is auto, off, or \"CERTIFICATE,KEY\", two PEM files")
		}
		return c, nil
	}
	names := []string{"127.0.0.1", "::1", s.ServerHost}
	for _, host := range s.APIAllowedHosts {
		if !strings.ContainsAny(host, ":/") { // the rest are origins of other pages
			names = append(names, host)
		}
	}
	if ip := net.ParseIP(s.APIBind); ip != nil && !ip.IsUnspecified() {
		names = append(names, s.APIBind)
	}
	pin, c, err := d.ownTLS("api", names, "put %[2]s back from a backup, or remove it and %[1]s: clients must then be told the new pin")
	if err == nil {
		d.log.Info("the API shows a certificate of its own: clients know it by its pin (--pin, SALTPETER_PIN) or by the file (--ca-file)",
			"pin", pin, "file", filepath.Join(d.stateDir, "api.crt"))
	}
	return c, err
}

// ownTLS is the key pair that the server made for itself on its first start, and the
// pin that it is known by. lost says what to do where it can't be used any more.
func (d *daemon) ownTLS(which string, names []string, lost string) (pin string, c *tls.Config, err error) {
	certFile, keyFile := filepath.Join(d.stateDir, which+".crt"), filepath.Join(d.stateDir, which+".key")
	// The certificate is written last: where it is, clients may know its key.
	if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
		if err := makeCertificate(certFile, keyFile, names); err != nil {
			return "", nil, failed(fmt.Errorf("cannot make the key of the %s port: %w", which, err), "")
		}
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return "", nil, failed(fmt.Errorf("cannot use the key of the %s port: %w", which, err), fmt.Sprintf(lost, certFile, keyFile))
	}
	if pin, err = wsx.PinOf(cert); err != nil {
		return "", nil, err
	}
	return pin, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// makeCertificate makes the key pair of a first start.
func makeCertificate(certFile, keyFile string, names []string) error {
	host, _ := os.Hostname()
	certPEM, keyPEM, err := wsx.NewCertificate(append([]string{host, "localhost"}, names...), time.Now())
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
	}{{keyFile, keyPEM}, {certFile, certPEM}} {
		if err := writeDurably(f.path, f.data); err != nil {
			return err
		}
	}
	return nil
}

// writeDurably replaces a private file in one step.
func writeDurably(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// operatorTLS reads "CERTIFICATE,KEY"; "" and "off" are none.
func operatorTLS(pair string) (*tls.Config, error) {
	if pair == "" || pair == "off" {
		return nil, nil
	}
	certFile, keyFile, ok := strings.Cut(pair, ",")
	if !ok {
		return nil, fmt.Errorf("cannot use %q as a certificate: it names no key", pair)
	}
	cert, err := tls.LoadX509KeyPair(strings.TrimSpace(certFile), strings.TrimSpace(keyFile))
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}
