// Package lab holds what the tests of several rooms share: foreign programs that
// they run if the machine has them, and unpack into a cache folder if not, and the
// small parts of their rigs. It installs nothing, starts no service and changes
// nothing on the host.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// once keeps one answer for each program and test binary: what could not be had
// once is not tried again.
var once = struct {
	sync.Mutex
	paths map[string]string
	errs  map[string]error
}{paths: map[string]string{}, errs: map[string]error{}}

// Busybox is the path of a busybox, the machine's own or an unpacked one. The
// test is skipped where neither can be had.
func Busybox(t testing.TB) string {
	t.Helper()
	path, err := program("busybox", "busybox-static", "bin/busybox", "usr/bin/busybox")
	if err != nil {
		t.Skipf("no busybox here: %v", err)
	}
	return path
}

// program finds a program on PATH, in the cache, or in a Debian package.
func program(name, pkg string, inside ...string) (string, error) {
	once.Lock()
	defer once.Unlock()
	if path, ok := once.paths[name]; ok {
		return path, once.errs[name]
	}
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = unpacked(pkg, inside)
	}
	once.paths[name], once.errs[name] = path, err
	return path, err
}

// unpacked returns a file of a Debian package, from the cache or fresh.
func unpacked(pkg string, inside []string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, pkg)
	for _, file := range inside {
		if path := filepath.Join(root, file); executable(path) {
			return path, nil
		}
	}
	if err := unpack(cache, root, pkg); err != nil {
		return "", err
	}
	for _, file := range inside {
		if path := filepath.Join(root, file); executable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("package %s holds none of %s", pkg, strings.Join(inside, ", "))
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// unpack fetches a package into a folder of its own and moves that into its place
// when it is whole: several test binaries may do so at once.
func unpack(cache, root, pkg string) error {
	for _, tool := range []string{"apt-get", "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			return errors.New("it is not installed, and there is no " + tool + " to unpack it with")
		}
	}
	dir, err := os.MkdirTemp(cache, pkg+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := download(ctx, cache, dir, pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", pkg, len(debs))
	}
	tree := filepath.Join(dir, "tree")
	if out, err := exec.CommandContext(ctx, "dpkg", "-x", debs[0], tree).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg -x: %w: %s", err, lastLine(out))
	}
	if err := os.Chmod(tree, 0o755); err != nil { // other users run what lies here
		return err
	}
	if err := os.Rename(tree, root); err != nil && !errors.Is(err, os.ErrExist) {
		if _, e := os.Stat(root); e != nil {
			return err
		}
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// Cache is a folder for what tests unpack: $XDG_CACHE_HOME/saltpeter-test, else
// .cache beside go.mod, which git ignores.
func Cache() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		for !isFile(filepath.Join(dir, "go.mod")) {
			parent := filepath.Dir(dir)
			if parent == dir {
				return "", errors.New("no cache folder: XDG_CACHE_HOME is not set, and no go.mod lies above this folder")
			}
			dir = parent
		}
		base = filepath.Join(dir, ".cache")
	}
	path := filepath.Join(base, "saltpeter-test")
	return path, os.MkdirAll(path, 0o755)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
