package launch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// buildName is what `make dist` calls a build, before its architecture.
const buildName = "saltpeter-linux-"

// build is one binary that can be put on machines.
type build struct {
	arch string // as Go calls it
	path string
	size int64
	sha  string // hex SHA-256
}

// name is what the binary is called on a machine. The same bytes have the same name
// everywhere, and an upgrade has another: a running wrapper keeps its file.
func (b build) name() string { return "saltpeter-" + b.sha[:min(16, len(b.sha))] }

// builds are the server's own binary and those for other architectures.
type builds struct {
	own  string
	dirs []string

	mu    sync.Mutex
	known map[string]measured // by path
}

// measured keeps the hash of a file for as long as it looks the same.
type measured struct {
	build
	modified time.Time
}

func newBuilds(own string, dirs []string) *builds {
	return &builds{own: own, dirs: dirs, known: map[string]measured{}}
}

// all lists what there is, by architecture; the server's own comes first.
func (b *builds) all() (map[string]build, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := map[string]build{}
	for _, dir := range b.dirs {
		paths, _ := filepath.Glob(filepath.Join(dir, buildName+"*"))
		for _, path := range paths {
			arch := strings.TrimPrefix(filepath.Base(path), buildName)
			if !plainWord(arch) || found[arch].sha != "" || arch == runtime.GOARCH {
				continue
			}
			one, err := b.measure(path, arch)
			if err != nil {
				return nil, err
			}
			found[arch] = one
		}
	}
	own, err := b.measure(b.own, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	found[runtime.GOARCH] = own
	return found, nil
}

// plainWord: it becomes part of a variable's name in put.sh.
func plainWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// measure hashes a file unless it is known. The lock is held.
func (b *builds) measure(path, arch string) (build, error) {
	f, err := os.Open(path)
	if err != nil {
		return build{}, fmt.Errorf("cannot read the wrapper's binary: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return build{}, fmt.Errorf("cannot read the wrapper's binary: %w", err)
	}
	if m, ok := b.known[path]; ok && m.size == info.Size() && m.modified.Equal(info.ModTime()) {
		return m.build, nil
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return build{}, fmt.Errorf("cannot read the wrapper's binary %s: %w", path, err)
	}
	m := measured{build: build{arch: arch, path: path, size: n, sha: hex.EncodeToString(h.Sum(nil))}, modified: info.ModTime()}
	b.known[path] = m
	return m.build, nil
}

// missing says what to do where there is no build for a machine.
func (b *builds) missing(arch string) string {
	where := "the folder of the server's binary"
	if len(b.dirs) > 0 {
		where = b.dirs[0]
	}
	return fmt.Sprintf("put %s%s into %s (`make dist` builds it), or name the machine's own with wrapper_path", buildName, arch, where)
}
