package wrapper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// jobLock is a lockfile: the flock is the lock, and it ends with the wrapper. The
// PID in it is for people only.
type jobLock struct{ file *os.File }

// takeLock locks path. With overlap allowed, one that another holds is no
// obstacle, and nil is returned.
func takeLock(path string, overlap bool) (*jobLock, error) {
	if path == "" {
		return nil, nil
	}
	for range 100 {
		// No link is followed: the directory may be another user's.
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, fmt.Errorf("cannot take lockfile %s: %w", path, unwrapPath(err))
		}
		opened, err := f.Stat()
		if err != nil || !opened.Mode().IsRegular() {
			f.Close()
			return nil, fmt.Errorf("cannot take lockfile %s: it is not a regular file", path)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			holder := make([]byte, 32)
			n, _ := f.ReadAt(holder, 0)
			f.Close()
			if overlap {
				return nil, nil
			}
			return nil, fmt.Errorf("cannot take lockfile %s: process %s holds it; the job is still running there", path, orUnknown(printable(string(holder[:n]))))
		}
		// Somebody may have put another file there while we waited for the lock.
		if there, err := os.Lstat(path); err == nil && os.SameFile(there, opened) {
			return &jobLock{file: f}, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("cannot take lockfile %s: it is replaced all the time", path)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// tell writes who holds the lock.
func (l *jobLock) tell(pid int) {
	if l != nil {
		l.write(strconv.Itoa(pid))
	}
}

func (l *jobLock) write(text string) {
	_ = l.file.Truncate(0)
	_, _ = l.file.WriteAt([]byte(text), 0)
}

// release leaves the file where it is: removing it would let two hold "the" lock.
func (l *jobLock) release() {
	if l != nil {
		l.write("")
		l.file.Close()
	}
}
