package wrapper

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"saltpeter/wsx/wire"
)

// A task's directory in the spool root holds, all 0600 in 0700:
//
//	lock            flock held by the wrapper that owns the task, or by the one that delivers it
//	meta            taskMeta
//	output.NNNNNN   the output, see spool
//	index.NNNNNN    streams and times of the same, see record
//	base            where the first kept output file stands
//	end             wire.EndRecord, once the job is over
const (
	lockName = "lock"
	metaName = "meta"
	endName  = "end"
)

// taskMeta is what it takes to speak for a task whose wrapper is gone.
type taskMeta struct {
	Order    wire.Order     `json:"order"` // without command and environment: nobody starts it again
	Identity *wire.Identity `json:"identity,omitempty"`
}

type taskDir struct {
	path string
	lock *os.File
}

// errTaken: there is a directory of this task already. It was started before.
var errTaken = errors.New("this task was started before")

// errOwned: a living wrapper owns the directory.
var errOwned = errors.New("a living wrapper owns it")

// spoolRoots lists where spools may lie, best first.
func spoolRoots(o *wire.Order, getenv func(string) string, uid int) []string {
	if o.SpoolDir != "" {
		return []string{o.SpoolDir}
	}
	if uid == 0 {
		return []string{"/var/lib/saltpeter/spool"}
	}
	var roots []string
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		roots = append(roots, filepath.Join(dir, "saltpeter", "spool"))
	} else if home := getenv("HOME"); filepath.IsAbs(home) {
		roots = append(roots, filepath.Join(home, ".local", "state", "saltpeter", "spool"))
	}
	return append(roots, filepath.Join(os.TempDir(), "saltpeter-"+strconv.Itoa(uid), "spool"))
}

// makeRoot makes a spool root. One that somebody else owns, or that others may
// write to, is not taken: in a shared directory like /tmp anybody could have
// put it there.
func makeRoot(root string) error {
	for _, dir := range []string{filepath.Dir(root), root} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make the spool: %w", err)
		}
	}
	info, err := os.Lstat(root)
	if err != nil {
		return fmt.Errorf("cannot use the spool: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return fmt.Errorf("cannot use the spool %s: it is not a directory", root)
	}
	if int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("cannot use the spool %s: user %d owns it", root, stat.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("cannot use the spool %s: others may write to it (chmod go-w)", root)
	}
	return nil
}

// taskName names the directory of an order: readable, safe, and the same for the
// same task.
func taskName(o *wire.Order) string {
	sum := sha256.Sum256([]byte(o.Server + "\x00" + o.Run + "\x00" + o.Machine + "\x00" + o.Task))
	return safeName(o.Run) + "-" + hex.EncodeToString(sum[:6])
}

// safeName makes a file name of any text.
func safeName(s string) string {
	name := []byte(s)
	if len(name) > 100 {
		name = name[:100]
	}
	for i, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
		default:
			name[i] = '_'
		}
	}
	if len(name) == 0 {
		return "_"
	}
	return string(name)
}

// createTaskDir makes the directory of a task in root. It appears complete, with
// its lock held, or not at all; two starts of one task can't both succeed.
func createTaskDir(root string, meta taskMeta) (*taskDir, error) {
	if err := makeRoot(root); err != nil {
		return nil, err
	}
	final := filepath.Join(root, taskName(&meta.Order))
	tmp, err := os.MkdirTemp(root, ".new-")
	if err != nil {
		return nil, fmt.Errorf("cannot write to the spool: %w", err)
	}
	d := &taskDir{path: tmp}
	if err := d.take(); err == nil {
		var data []byte
		if data, err = meta.encode(); err == nil {
			err = os.WriteFile(filepath.Join(tmp, metaName), data, 0o600) // nobody looks in here yet
		}
		if err == nil {
			err = os.Rename(tmp, final)
		}
		if err == nil {
			d.path = final
			return d, nil
		}
		d.release()
	}
	os.RemoveAll(tmp)
	if _, statErr := os.Lstat(final); statErr == nil {
		return nil, fmt.Errorf("cannot start: %w (see %s)", errTaken, final)
	}
	return nil, fmt.Errorf("cannot write to the spool %s", root)
}

// take gets the lock that makes its holder the only one who speaks for the task.
func (d *taskDir) take() error {
	f, err := os.OpenFile(filepath.Join(d.path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return errOwned
		}
		return err
	}
	d.lock = f
	return nil
}

func (d *taskDir) release() {
	if d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
}

// remove deletes the directory and lets go of it.
func (d *taskDir) remove() {
	os.RemoveAll(d.path)
	d.release()
}

func (m taskMeta) encode() ([]byte, error) {
	m.Order.Command, m.Order.Env = "", nil
	return json.Marshal(m)
}

func (d *taskDir) writeMeta(m taskMeta) error {
	data, err := m.encode()
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.path, metaName), data)
}

func (d *taskDir) readMeta() (taskMeta, error) {
	var m taskMeta
	data, err := os.ReadFile(filepath.Join(d.path, metaName))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

// writeEnd writes how the task ended. That survives this process, and after saveEnd
// the machine.
func (d *taskDir) writeEnd(r wire.EndRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.path, endName), append(data, '\n'))
}

func (d *taskDir) saveEnd() error {
	f, err := os.Open(filepath.Join(d.path, endName))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// readEnd returns nil without an error if the job's end was not seen.
func (d *taskDir) readEnd() (*wire.EndRecord, error) {
	data, err := os.ReadFile(filepath.Join(d.path, endName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, nil // the machine went down before the record reached the disk
	}
	var r wire.EndRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("cannot read the end record in %s: %w", d.path, err)
	}
	return &r, nil
}

// age is how long nothing was written to the directory.
func (d *taskDir) age(now time.Time) time.Duration {
	var latest time.Time
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().After(latest) {
			latest = info.ModTime()
		}
	}
	return now.Sub(latest)
}
