package wrapper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// jobLock is a lockfile. The flock is the lock, and the job's processes hold it
// together with the wrapper: it ends when the wrapper says that the job has ended, or,
// where the wrapper dies before, with the last of them. The PID in it is for people
// only.
type jobLock struct {
	file     *os.File
	released bool
	held     *os.File // what is locked, and what the job inherits: for reading only
}

// lockFD is where the job's processes have it: beyond what shells name or hand out.
const lockFD = 62

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
		l, err := flock(f)
		if err != nil {
			holder := make([]byte, 32)
			n, _ := f.ReadAt(holder, 0)
			f.Close()
			if overlap {
				return nil, nil
			}
			return nil, fmt.Errorf("cannot take lockfile %s: %s holds it; the job is still running there", path, holderName(printable(string(holder[:n]))))
		}
		// Somebody may have put another file there while we waited for the lock.
		if there, err := os.Lstat(path); err == nil && os.SameFile(there, opened) {
			return l, nil
		}
		l.close()
	}
	return nil, fmt.Errorf("cannot take lockfile %s: it is replaced all the time", path)
}

// flock locks an open lockfile through a second opening of it.
func flock(f *os.File) (*jobLock, error) {
	held, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		held = f
	}
	err = syscall.Flock(int(held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EBADF) && held != f { // NFS locks only what may be written
		held.Close()
		held = f
		err = syscall.Flock(int(held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil && held != f {
		held.Close()
	}
	return &jobLock{file: f, held: held}, err
}

// inherited is what the job's shell gets of the lock; nil where there is none.
func (l *jobLock) inherited() *os.File {
	if l == nil {
		return nil
	}
	return l.held
}

func (l *jobLock) close() {
	l.file.Close()
	if l.held != l.file {
		l.held.Close()
	}
}

// holderName says who holds a lock; one that has written no PID has no name.
func holderName(pid string) string {
	if pid == "" {
		return "another process"
	}
	return "process " + pid
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

// release leaves the file where it is: removing it would let two hold "the" lock. What
// the job has left may still have it open; it is unlocked for them as well.
func (l *jobLock) release() {
	if l == nil || l.released {
		return
	}
	l.released = true
	l.write("")
	_ = syscall.Flock(int(l.held.Fd()), syscall.LOCK_UN)
	l.close()
}
