package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func lockPath(dir string) string { return filepath.Join(dir, "lock") }

// takeLock makes this process the one server of the directory. The kernel gives
// the lock back when the process ends, however it ends; the pid in the file is
// only for the message.
func takeLock(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	// Who opens the book for reading asks for the lock for a moment: that is not
	// another server, so a refusal is believed only when it lasts.
	for try := 0; ; try++ {
		err = flock(f, unix.LOCK_EX)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) || try == 10 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		}
	}
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = lockedBy(dir)
		}
		f.Close()
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// probeLock is ErrLocked while a server runs. It never keeps the lock: a reader
// must not hold a server up.
func probeLock(dir string) error {
	f, err := os.Open(lockPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no server was ever here
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return lockedBy(dir)
	}
	return err
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func lockedBy(dir string) error {
	text, err := os.ReadFile(lockPath(dir))
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return fmt.Errorf("%w (%s): stop it first, or name another state directory", ErrLocked, dir)
	}
	return fmt.Errorf("%w (%s, pid %s): stop it first, or name another state directory", ErrLocked, dir, pid)
}
