package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A row of open-ended bytes is written when the one before is this old or this
// far away: rows are for --since and --timestamps, which need no more.
const (
	rowEvery = 100 * time.Millisecond
	rowBytes = 1 << 20
)

// outputFile is what the Outputs of one task share.
type outputFile struct {
	l    *Ledger
	id   TaskID
	num  int64
	refs int // under l.outputLock

	length atomic.Int64 // read without the lock
	seq    atomic.Int64

	mu       sync.Mutex
	opened   bool // looked for on the disk
	data     *os.File
	idx      *os.File
	rows     int64      // where the next row goes
	last     sidecarRow // the last row that is not a mark; kind 0: none
	tail     bool       // data may hold bytes behind length that do not count
	dirty    bool       // written since the last Sync
	dirNamed bool       // the names are durable
	fault    error      // a file that cannot be trusted any more
}

// look opens files that exist and cuts off what a crash has left behind the last
// consistent row.
func (f *outputFile) look() error {
	if f.opened {
		return nil
	}
	base := outputBase(f.l.dir, f.num)
	idx, err := os.OpenFile(base+".idx", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f.opened = true
		return nil
	}
	if err != nil {
		return err
	}
	data, err := os.OpenFile(base+".out", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return errors.Join(err, idx.Close())
	}
	if err := f.recover(data, idx); err != nil {
		return errors.Join(err, data.Close(), idx.Close())
	}
	f.data, f.idx, f.opened, f.dirty = data, idx, true, true
	return nil
}

func (f *outputFile) recover(data, idx *os.File) error {
	head, err := headLength(idx)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", idx.Name(), err)
	}
	if head == 0 { // it was not even begun: nothing was acknowledged
		if head, err = f.writeHead(idx); err != nil {
			return err
		}
	}
	idxSize, err := fileSize(idx)
	if err != nil {
		return err
	}
	x, err := measure(idx, head, idxSize, func() (int64, error) { return fileSize(data) })
	if err != nil {
		return err
	}
	if err := idx.Truncate(x.rows); err != nil {
		return err
	}
	if err := data.Truncate(x.length); err != nil {
		return err
	}
	f.rows, f.last = x.rows, x.last
	f.length.Store(x.length)
	f.seq.Store(x.seq)
	return nil
}

func fileSize(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *outputFile) writeHead(idx *os.File) (int64, error) {
	head, err := sidecarHead(f.id)
	if err != nil {
		return 0, err
	}
	if err := idx.Truncate(0); err != nil {
		return 0, err
	}
	_, err = idx.WriteAt(head, 0)
	return int64(len(head)), err
}

// ready makes the files where they are missing.
func (f *outputFile) ready() error {
	if f.fault != nil {
		return f.fault
	}
	if f.data != nil {
		return nil
	}
	base := outputBase(f.l.dir, f.num)
	var err error
	for range 3 { // Prune may take an empty directory away under our hands
		if err = f.create(base); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

func (f *outputFile) create(base string) error {
	if err := makeDirs(f.l.dir, filepath.Dir(base)); err != nil {
		return err
	}
	data, err := os.OpenFile(base+".out", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	idx, err := os.OpenFile(base+".idx", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return errors.Join(err, data.Close())
	}
	head, err := f.writeHead(idx)
	if err == nil {
		err = data.Truncate(0)
	}
	if err != nil {
		return errors.Join(err, data.Close(), idx.Close())
	}
	f.data, f.idx, f.rows = data, idx, head
	return nil
}

// makeDirs makes the directories of an output and their names durable.
func makeDirs(root, dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && dir != root:
		if err := makeDirs(root, filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// row appends one row. Its place moves on only when it is written whole.
func (f *outputFile) row(r sidecarRow) error {
	f.dirty = true
	if _, err := f.idx.WriteAt(r.encode(), f.rows); err != nil {
		return err
	}
	f.rows += rowSize
	if r.kind != rowMark {
		f.last = r
	}
	return nil
}

// open appends open-ended bytes at the end.
func (f *outputFile) open(at time.Time, stream byte, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	length, now := f.length.Load(), nanos(at)
	l := f.last
	if l.kind != rowOpen || l.stream != stream || length-l.offset >= rowBytes || now-l.at >= int64(rowEvery) || now < l.at {
		if err := f.trim(); err != nil {
			return err
		}
		if err := f.row(sidecarRow{offset: length, end: length, at: now, seq: f.seq.Load(), stream: stream, kind: rowOpen}); err != nil {
			return err
		}
	}
	f.dirty = true
	n, err := f.data.WriteAt(data, length)
	if err != nil {
		// WriteAt does not tell how much a failing write has written; it is good
		// and everybody else sees it.
		if size, err := fileSize(f.data); err == nil {
			n = int(min(max(0, size-length), int64(len(data))))
		}
	}
	f.length.Store(length + int64(n))
	return err
}

// trim cuts off what a frame that failed has left, before an open-ended row would
// make it count.
func (f *outputFile) trim() error {
	if !f.tail {
		return nil
	}
	if err := f.data.Truncate(f.length.Load()); err != nil {
		return err
	}
	f.tail = false
	return nil
}

// frame appends the bytes of one frame with seq.
func (f *outputFile) frame(at time.Time, seq int64, stream byte, data []byte) error {
	length, now := f.length.Load(), nanos(at)
	if f.last.kind == rowOpen {
		if err := f.row(sidecarRow{offset: length, end: length, at: now, seq: f.seq.Load(), stream: stream, kind: rowCut}); err != nil {
			return err
		}
	}
	f.dirty, f.tail = true, true
	end := length + int64(len(data))
	_, err := f.data.WriteAt(data, length)
	if err == nil {
		err = f.row(sidecarRow{offset: length, end: end, at: now, seq: seq, stream: stream, kind: rowSeq})
	}
	if err != nil {
		// The frame comes again; if its remains cannot be cut off now, trim will.
		return errors.Join(err, f.trim())
	}
	f.length.Store(end)
	f.seq.Store(seq)
	f.tail = false
	return nil
}

func (f *outputFile) sync() error {
	if f.fault != nil {
		return f.fault
	}
	if f.data == nil || (!f.dirty && f.dirNamed) {
		return nil
	}
	// Side by side: an end and its receipt wait for all of them.
	var wg sync.WaitGroup
	files := [...]*os.File{f.idx, f.data}
	var errs [len(files)]error
	var dirErr error
	for i, file := range files {
		wg.Go(func() { errs[i] = unix.Fdatasync(int(file.Fd())) })
	}
	if !f.dirNamed {
		dirErr = syncDir(filepath.Dir(f.data.Name()))
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			// The kernel may have dropped what it could not write and would call
			// the next fsync a success: never again believe this file.
			f.fault = fmt.Errorf("cannot write %s to the disk: %w", files[i].Name(), err)
			return f.fault
		}
	}
	if dirErr != nil {
		return dirErr
	}
	f.dirty, f.dirNamed = false, true
	return nil
}

func (f *outputFile) release() error {
	f.l.outputLock.Lock()
	f.refs--
	last := f.refs == 0
	if last {
		delete(f.l.outputs, f.num)
	}
	f.l.outputLock.Unlock()
	if !last {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = os.ErrClosed
	if f.data == nil {
		return nil
	}
	err := errors.Join(f.data.Close(), f.idx.Close())
	f.data, f.idx = nil, nil
	return err
}
