package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// libraries are the packages of the libraries that sshd and nft are linked with and
// that a small machine may lack; names that changed with a release stand beside each other.
var libraries = map[string][]string{
	"libxtables.so.12":    {"libxtables12"},
	"libnftnl.so.11":      {"libnftnl11"},
	"libnftables.so.1":    {"libnftables1"},
	"libmnl.so.0":         {"libmnl0"},
	"libmd.so.0":          {"libmd0"},
	"libjansson.so.4":     {"libjansson4"},
	"libgmp.so.10":        {"libgmp10"},
	"libedit.so.2":        {"libedit2"},
	"libbsd.so.0":         {"libbsd0"},
	"libaudit.so.1":       {"libaudit1"},
	"libcap-ng.so.0":      {"libcap-ng0"},
	"libcom_err.so.2":     {"libcom-err2"},
	"libcrypt.so.1":       {"libcrypt1"},
	"libcrypto.so.3":      {"libssl3t64", "libssl3"},
	"libgssapi_krb5.so.2": {"libgssapi-krb5-2"},
	"libk5crypto.so.3":    {"libk5crypto3"},
	"libkeyutils.so.1":    {"libkeyutils1"},
	"libkrb5.so.3":        {"libkrb5-3"},
	"libkrb5support.so.0": {"libkrb5support0"},
	"libnsl.so.2":         {"libnsl2"},
	"libpam.so.0":         {"libpam0g"},
	"libpcre2-32.so.0":    {"libpcre2-32-0"},
	"libselinux.so.1":     {"libselinux1"},
	"libsystemd.so.0":     {"libsystemd0"},
	"libtirpc.so.3":       {"libtirpc3t64", "libtirpc3"},
	"libwrap.so.0":        {"libwrap0"},
	"libwtmpdb.so.0":      {"libwtmpdb0"},
}

// sshd is the path of an sshd, and what its environment needs for its libraries.
// The path is absolute: it starts itself again for each connection.
func sshd() (string, []string, error) {
	bin, err := exec.LookPath("sshd")
	if err != nil {
		if bin = "/usr/sbin/sshd"; !executable(bin) {
			bin, err = program("sshd", "openssh-server", "usr/sbin/sshd")
		} else {
			err = nil
		}
	}
	if err != nil {
		return "", nil, err
	}
	dirs, err := libraryPath(bin)
	if err != nil || len(dirs) == 0 {
		return bin, nil, err
	}
	return bin, []string{"LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}, nil
}

// Foreign is a program of the machine, or of a package, and what its environment
// needs for its libraries.
func Foreign(name, pkg string, inside ...string) (path string, env []string, err error) {
	if path, err = program(name, pkg, inside...); err != nil {
		return "", nil, err
	}
	dirs, err := libraryPath(path)
	if err == nil && len(dirs) > 0 {
		env = []string{"LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}
	}
	return path, env, err
}

var missing = regexp.MustCompile(`(\S+) => not found`)

// libraryPath unpacks the libraries that a program lacks, and those that they
// lack, and names the folders.
func libraryPath(bin string) ([]string, error) {
	var dirs []string
	for range len(libraries) {
		cmd := exec.Command("ldd", bin)
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(dirs, ":"))
		out, err := cmd.CombinedOutput()
		if err != nil { // a static one; otherwise it will tell when it is started
			return dirs, nil
		}
		m := missing.FindSubmatch(out)
		if m == nil {
			return dirs, nil
		}
		dir, err := library(string(m[1]))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return nil, errors.New("the libraries of sshd have no end")
}

func library(name string) (string, error) {
	err := fmt.Errorf("no package is known for %s", name)
	for _, pkg := range libraries[name] {
		var root string
		if root, err = Package(pkg); err != nil {
			continue
		}
		for _, pattern := range []string{"usr/lib/*/" + name, "lib/*/" + name} {
			if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
				return filepath.Dir(found[0]), nil
			}
		}
		err = fmt.Errorf("package %s holds no %s", pkg, name)
	}
	return "", err
}

// Package is the folder of an unpacked Debian package, from the cache or fresh.
func Package(pkg string) (string, error) {
	once.Lock()
	defer once.Unlock()
	name := "package " + pkg
	if path, ok := once.paths[name]; ok {
		return path, once.errs[name]
	}
	path, err := packageIn(pkg)
	once.paths[name], once.errs[name] = path, err
	return path, err
}

func packageIn(pkg string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, pkg)
	if isDir(root) {
		return root, nil
	}
	return root, unpack(cache, root, pkg)
}

// download fetches a package into a folder. Where the machine has no list of
// packages, or an old one, it reads one into the cache: the machine's own stays.
func download(ctx context.Context, cache, dir, pkg string) error {
	out, err := apt(ctx, dir, "download", pkg)
	if err == nil {
		return nil
	}
	lists := filepath.Join(cache, "apt")
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(lists, d), 0o755); err != nil {
			return err
		}
	}
	lock, err2 := os.Create(filepath.Join(lists, "lock")) // several test binaries at once: one reads, the others wait for it
	if err2 != nil {
		return err2
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	own := []string{"-o", "Dir::State::lists=" + filepath.Join(lists, "lists"), "-o", "Dir::Cache=" + filepath.Join(lists, "cache"), "-o", "APT::Sandbox::User=root"}
	if info, e := os.Stat(filepath.Join(lists, "read")); e != nil || time.Since(info.ModTime()) > time.Hour {
		if _, e := apt(ctx, dir, append(own, "update")...); e != nil {
			return fmt.Errorf("apt-get download %s: %w: %s", pkg, err, lastLine(out))
		}
		if e := os.WriteFile(filepath.Join(lists, "read"), nil, 0o644); e != nil {
			return e
		}
	}
	if out, err = apt(ctx, dir, append(own, "download", pkg)...); err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", pkg, err, lastLine(out))
	}
	return nil
}

func apt(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}
