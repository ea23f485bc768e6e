package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"saltpeter/runner/ledger"
)

// How a text log is put aside: JOB.log becomes JOB.log.1 once it is this large,
// and of those so many are kept. A block is never split, so a file may become
// larger by one.
const (
	logSize = 10 << 20
	logKeep = 5
)

// textLog writes JOB.log for each job. It is its reporter's alone.
//
// Before it appends it has the ledger remember how long each file is (see
// intent): a server that is killed in the middle leaves a piece of a block, or
// whole ones that the ledger does not know of, and the next one cuts them off and
// writes them again.
type textLog struct {
	ledger *ledger.Ledger
	log    *slog.Logger
	limit  int64
	dirs   []string // while none is configured

	root   *os.Root // nil until it is opened
	intent intent
	half   bool // a part of it may be written, and could not be taken back

	mu         sync.Mutex
	configured string // "" = dirs
	dir        string // of root
	warn       string
}

// intent is what is about to be written: where the files end before that.
type intent struct {
	Dir   string              `json:"dir"`
	Files map[string]logPlace `json:"files"`
}

// logPlace is a file as it was. Inode 0: it was not there.
type logPlace struct {
	Size  int64  `json:"size"`
	Inode uint64 `json:"inode,omitempty"`
}

func newTextLog(o Options) *textLog {
	t := &textLog{ledger: o.Ledger, log: o.Log, limit: o.LogSize, dirs: o.LogDirs}
	if t.limit <= 0 {
		t.limit = logSize
	}
	return t
}

func (t *textLog) set(s Settings) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := t.configured != s.LogDir
	t.configured = s.LogDir
	return changed
}

func (t *textLog) to() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir != "" || t.configured == "" {
		return t.dir
	}
	return t.configured
}

func (t *textLog) warning() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.warn
}

func (t *textLog) refused() int64 { return 0 }

func (t *textLog) close() {
	if t.root != nil {
		t.root.Close()
		t.root = nil
	}
}

// candidates are the folders to try in turn.
func (t *textLog) candidates() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.configured != "" {
		return []string{t.configured}
	}
	return t.dirs
}

// ready opens the folder. A default one that cannot be written gives way to the
// next, with a warning; a configured one is where people look, so there is no
// other in its place.
func (t *textLog) ready() error {
	if t.half {
		if err := t.undo(t.intent); err != nil {
			return err
		}
		t.half = false
	}
	dirs := t.candidates()
	t.mu.Lock()
	dir := t.dir
	t.mu.Unlock()
	if t.root != nil && slices.Contains(dirs, dir) {
		return nil
	}
	t.close()
	var failed error
	for _, dir := range dirs {
		root, err := openLogDir(dir)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		warn := ""
		if failed != nil {
			warn = fmt.Sprintf("text logs go to %s: %v", dir, failed)
			t.log.Warn(warn+"; name a folder with logdir in saltpeter_config", "reporter", TextLog)
		}
		t.root = root
		t.mu.Lock()
		t.dir, t.warn = dir, warn
		t.mu.Unlock()
		return nil
	}
	t.mu.Lock()
	t.dir = ""
	t.mu.Unlock()
	return fmt.Errorf("cannot write text logs: %w: make it writable for uid %d, or name another folder with logdir in saltpeter_config", failed, os.Geteuid())
}

func openLogDir(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	const writable = 2
	if err := syscall.Access(dir, writable); err != nil {
		return nil, &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	return os.OpenRoot(dir)
}

// fileOf is a job's file. Job names hold no slash and are not too long, so they
// are names of files; the suffix keeps "." and ".." from being special.
func fileOf(job string) string { return job + ".log" }

// batchBytes bounds about how much is written before the place in the ledger moves.
const batchBytes = 64 << 20

// prepare takes as many news as fit into the files before those must be put aside.
func (t *textLog) prepare(ctx context.Context, list []ledger.News, settle func() error) (n int, state string, err error) {
	t.mu.Lock()
	plan := intent{Dir: t.dir, Files: map[string]logPlace{}}
	t.mu.Unlock()
	grown := map[string]int64{}
	total := int64(0)
	for ; n < len(list) && total < batchBytes; n++ {
		name := fileOf(list[n].Job)
		if _, known := plan.Files[name]; !known {
			place, err := t.place(name)
			if err == nil && place.Size >= t.limit {
				// Until now it may be needed to find out what was written.
				if err = settle(); err == nil {
					err = t.putAside(name)
				}
				if err == nil {
					place, err = t.place(name)
				}
			}
			if err != nil {
				return 0, "", fmt.Errorf("cannot write a text log: %w", err)
			}
			plan.Files[name], grown[name] = place, place.Size
		} else if grown[name] >= t.limit {
			break
		}
		size := lengthOf(ctx, t.ledger, list[n]) + blockOverhead
		grown[name] += size
		total += size
	}
	data, err := json.Marshal(plan)
	t.intent = plan
	return n, string(data), err
}

// place is where a file ends. What is no plain file is not written to: opening a
// pipe would wait for its reader.
func (t *textLog) place(name string) (logPlace, error) {
	info, err := t.root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return logPlace{}, nil
	}
	if err != nil {
		return logPlace{}, err
	}
	if !info.Mode().IsRegular() {
		return logPlace{}, fmt.Errorf("%s is no plain file: move it away", filepath.Join(t.root.Name(), name))
	}
	return logPlace{Size: info.Size(), Inode: inodeOf(info)}, nil
}

func inodeOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// putAside makes JOB.log JOB.log.1, and so on; the oldest goes. The new file may be
// read by those who could read the one before.
func (t *textLog) putAside(name string) error {
	numbered := func(i int) string { return name + "." + strconv.Itoa(i) }
	if err := t.root.Remove(numbered(logKeep)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := logKeep - 1; i > 0; i-- {
		if err := t.root.Rename(numbered(i), numbered(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	before, err := t.root.Stat(name)
	if err != nil {
		return err
	}
	if err := t.root.Rename(name, numbered(1)); err != nil {
		return err
	}
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if stat, ok := before.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(stat.Uid), int(stat.Gid)) // only root may give files away
	}
	return errors.Join(f.Chmod(before.Mode().Perm()), f.Close())
}

// again: after a failure everything is looked at anew, the folder included.
func (t *textLog) again(string) bool { return true }

// send appends the blocks. What fails half way is taken back, so that it can be
// tried again.
func (t *textLog) send(ctx context.Context, list []ledger.News) error {
	files := map[string]*logFile{}
	err := func() error {
		for _, n := range list {
			name := fileOf(n.Job)
			f := files[name]
			if f == nil {
				var err error
				if f, err = t.open(name); err != nil {
					return err
				}
				files[name] = f
				if len(files) > 256 { // thousands of jobs must not hold thousands of files
					for other, f := range files {
						if other != name {
							delete(files, other)
							if err := f.close(); err != nil {
								return err
							}
						}
					}
				}
			}
			if err := writeBlock(ctx, f.out, t.ledger, n); err != nil {
				return err
			}
		}
		return nil
	}()
	for _, f := range files {
		if closed := f.close(); err == nil {
			err = closed
		}
	}
	if err == nil {
		return nil
	}
	t.close()
	if undone := t.undo(t.intent); undone != nil {
		t.half, err = true, errors.Join(err, undone)
	}
	return fmt.Errorf("cannot write a text log: %w", err)
}

// restore takes back what an earlier server was writing when it ended.
func (t *textLog) restore(state string) error {
	var was intent
	if err := json.Unmarshal([]byte(state), &was); err != nil {
		return fmt.Errorf("cannot tell which text logs were being written: %w", err)
	}
	return t.undo(was)
}

// undo takes back what was being written. A folder that is gone took it along.
func (t *textLog) undo(was intent) error {
	root, err := os.OpenRoot(was.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer root.Close()
		err = takeBack(root, was)
	}
	if err != nil && !slices.Contains(t.candidates(), was.Dir) {
		t.log.Warn("cannot tidy the text logs of before; the end of some may be there twice", "err", err)
		return nil
	}
	return err
}

// takeBack cuts the files to where they ended. One that somebody else has put
// aside meanwhile is another file and is left alone.
func takeBack(root *os.Root, was intent) error {
	var failed error
	for name, place := range was.Files {
		info, err := root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && info.Mode().IsRegular() && info.Size() > place.Size && (place.Inode == 0 || place.Inode == inodeOf(info)) {
			err = truncate(root, name, place.Size)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func truncate(root *os.Root, name string, size int64) error {
	f, err := root.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
