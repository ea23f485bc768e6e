package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Load reads a directory. prev, if not nil, gives the last good version of files
// that are broken now, and what need not be read again. It fails only where the
// directory itself cannot be read; everything else is in Set.Problems.
func Load(dir string, prev *Set) (*Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, cannotRead(dir, err)
	}
	l := newLoading(dir, prev)
	l.read(entries)
	if l.unchanged() {
		return prev, nil
	}
	return l.merge(), nil
}

// read takes all names, several at a time: parsing is most of the work, and no
// file has a say in another's.
func (l *loading) read(entries []fs.DirEntry) {
	all := make([]found, len(entries))
	var (
		next atomic.Int64
		wait sync.WaitGroup
	)
	for range min(len(entries), runtime.GOMAXPROCS(0), 4) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(entries); i = int(next.Add(1)) - 1 {
				all[i] = l.entry(entries[i].Name())
			}
		})
	}
	wait.Wait()
	for _, f := range all {
		if f.file != nil {
			l.add(f.file)
		}
		if f.problem != nil {
			l.other = append(l.other, *f.problem)
		}
	}
}

// found is what a name of the directory stands for; nothing where both are nil.
type found struct {
	file    *scan
	problem *Problem
}

// unchanged: every file is as it was, so the set is too. This is what a rescan
// finds nearly always, and with 10,000 jobs it must cost next to nothing.
func (l *loading) unchanged() bool {
	if l.prev == nil || len(l.files) != len(l.before.files) || l.before.includes || !slices.Equal(l.other, l.before.other) {
		return false
	}
	for _, f := range l.files {
		if was := l.before.files[f.now.name]; was == nil || was.now.hash != f.now.hash {
			return false
		}
	}
	return true
}

// Unreadable is the error of a directory that cannot be read.
type Unreadable struct{ Text, Hint string }

func (e *Unreadable) Error() string { return e.Text + "; " + e.Hint }

func cannotRead(dir string, err error) error {
	why, hint := err.Error(), "mend that, or name another directory with -c"
	var pe *fs.PathError
	if errors.As(err, &pe) {
		why = pe.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why, hint = "no such directory", "create it or name another with -c"
	case errors.Is(err, fs.ErrPermission):
		why, hint = "permission denied", "let this user read it or name another with -c"
	case errors.Is(err, syscall.ENOTDIR):
		why, hint = "it is not a directory", "name the directory that the file lies in with -c"
	}
	return &Unreadable{Text: fmt.Sprintf("cannot read job files in %s: %s", dir, why), Hint: hint}
}

func filePath(dir, name string) string {
	if dir == "" || strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}

// loading is one Load.
type loading struct {
	dir    string
	prev   *Set // of the same directory, or nil
	before *state
	zones  *zoneTable
	files  []*fileState // by name
	other  []Problem    // of no file that is read
}

func newLoading(dir string, prev *Set) *loading {
	if prev != nil && prev.state != nil && prev.Dir == dir {
		return &loading{dir: dir, prev: prev, before: prev.state, zones: prev.state.zones}
	}
	return &loading{dir: dir, before: &state{}, zones: &zoneTable{known: map[string]*time.Location{}}}
}

// entry looks at one name of the directory.
func (l *loading) entry(name string) found {
	switch {
	case strings.HasPrefix(name, ".#"), strings.Contains(name, "\n"):
		return found{}
	case strings.HasSuffix(name, ".yml"):
		return found{problem: &Problem{
			File: filePath(l.dir, name), Text: "is ignored: the names of job files end in .yaml",
			Hint: fmt.Sprintf("rename it to %s.yaml", strings.TrimSuffix(name, ".yml")), Warning: true,
		}}
	case !strings.HasSuffix(name, jobFileSuffix) || name == jobFileSuffix:
		return found{}
	}
	path := filepath.Join(l.dir, name)
	data, err := readRegular(path)
	switch {
	case err == nil:
		return found{file: l.content(name, data)}
	case errors.Is(err, errDirectory):
		return found{}
	case errors.Is(err, fs.ErrNotExist):
		// Either it went while we looked, which is a deletion, or it is a link
		// that leads nowhere, which is a broken file.
		if _, err := os.Lstat(path); err != nil {
			return found{}
		}
		return found{file: brokenFile(l.dir, name, "is a link to a file that does not exist", "mend the link or take it away")}
	}
	text, hint := unreadable(err)
	return found{file: brokenFile(l.dir, name, text, hint)}
}

// content takes what a file holds, or what was made of it the last time.
func (l *loading) content(name string, data []byte) *scan {
	hash := hashOf(data)
	if f := l.before.files[name]; f != nil {
		for _, known := range []*scan{f.now, f.good} {
			if known != nil && known.hash == hash {
				return known
			}
		}
	}
	return scanFile(l.dir, name, data, hash, l.zones)
}

func (l *loading) add(s *scan) {
	f := &fileState{now: s, good: s}
	if s.broken {
		f.good = nil
		if was := l.before.files[s.name]; was != nil {
			f.good = was.good
		}
	}
	l.files = append(l.files, f)
}

var (
	errDirectory = errors.New("is a directory")
	errSpecial   = errors.New("is not a regular file")
	errTooLarge  = errors.New("is larger than 1 MiB")
)

// readRegular reads a file of bounded size. It does not block on a pipe, and
// asks the opened file what it is: the name may be another file by then.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errDirectory
	case !info.Mode().IsRegular():
		return nil, errSpecial
	case info.Size() > maxFileBytes:
		return nil, errTooLarge
	}
	data := make([]byte, 0, info.Size()+512)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case len(data) > maxFileBytes:
			return nil, errTooLarge
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, err
		case len(data) == cap(data):
			data = append(data, make([]byte, len(data))...)[:len(data)]
		}
	}
}

// unreadable is text and hint for a file that is there and cannot be read.
func unreadable(err error) (text, hint string) {
	var pe *fs.PathError
	switch {
	case errors.Is(err, errTooLarge):
		return err.Error(), "split it into several files"
	case errors.Is(err, errSpecial):
		return err.Error(), "put a file there"
	case errors.Is(err, fs.ErrPermission):
		return "cannot be read: permission denied", "let the user that saltpeter runs as read it"
	case errors.Is(err, syscall.ELOOP):
		return "cannot be read: its links lead in a circle", "mend the link"
	case errors.As(err, &pe):
		return "cannot be read: " + pe.Err.Error(), ""
	}
	return "cannot be read: " + err.Error(), ""
}
