package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// Reader reads a task's stored bytes; it may be open while they grow. It is safe
// for concurrent use.
type Reader struct {
	base string

	mu     sync.Mutex
	data   *os.File
	idx    *os.File
	head   int64
	known  int64 // a length that was seen
	closed bool
}

var _ io.ReaderAt = (*Reader)(nil)

// OpenOutput opens a task's output for reading; one without output yet is empty.
// ErrNoTask.
func (l *Ledger) OpenOutput(id TaskID) (*Reader, error) {
	num, err := l.taskKey(context.Background(), id)
	if err != nil {
		return nil, fmt.Errorf("cannot open output: %w", err)
	}
	return &Reader{base: outputBase(l.dir, num)}, nil
}

// storedLength is how many bytes of a task's output count, 0 where that cannot be
// told.
func (l *Ledger) storedLength(num int64) int64 {
	l.outputLock.Lock()
	f := l.outputs[num]
	l.outputLock.Unlock()
	if f != nil {
		return f.length.Load()
	}
	r := Reader{base: outputBase(l.dir, num)}
	defer r.Close()
	n, err := r.Length()
	if err != nil {
		return 0
	}
	return n
}

// open opens the files once they are there; false while they are not.
func (r *Reader) open() (bool, error) {
	if r.closed {
		return false, os.ErrClosed
	}
	if r.data == nil {
		idx, err := os.Open(r.base + ".idx")
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		data, err := os.Open(r.base + ".out")
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return false, errors.Join(err, idx.Close())
		}
		r.data, r.idx = data, idx
	}
	if r.head == 0 {
		head, err := headLength(r.idx)
		if err != nil {
			return false, fmt.Errorf("cannot read %s: %w", r.idx.Name(), err)
		}
		r.head = head
	}
	return r.head > 0, nil
}

// extent measures the files as they are now.
func (r *Reader) extent() (extent, error) {
	there, err := r.open()
	if err != nil || !there {
		return extent{seq: -1}, err
	}
	size, err := fileSize(r.idx) // before the data's, see measure
	if err != nil {
		return extent{}, err
	}
	x, err := measure(r.idx, r.head, size, func() (int64, error) { return fileSize(r.data) })
	r.known = x.length
	return x, err
}

// ReadAt reads stored bytes; io.EOF at Length.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("cannot read output: offset %d is below 0", off)
	}
	r.mu.Lock()
	known, data := r.known, r.data
	if off+int64(len(p)) > known || data == nil || r.closed {
		x, err := r.extent()
		if err != nil {
			r.mu.Unlock()
			return 0, fmt.Errorf("cannot read output: %w", err)
		}
		known, data = x.length, r.data
	}
	r.mu.Unlock()
	if off >= known {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	short := int64(len(p)) > known-off
	if short {
		p = p[:known-off]
	}
	n, err := data.ReadAt(p, off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// Length is how many bytes can be read now.
func (r *Reader) Length() (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.extent()
	if err != nil {
		return 0, fmt.Errorf("cannot read output: %w", err)
	}
	return x.length, nil
}

// Rows returns the sidecar in the order of offsets.
func (r *Reader) Rows() ([]Row, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.extent()
	if err != nil {
		return nil, fmt.Errorf("cannot read output: %w", err)
	}
	if r.idx == nil {
		return nil, nil
	}
	rows, err := readRows(r.idx, r.head, x)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", r.idx.Name(), err)
	}
	return rows, nil
}

// Close closes the reader.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.data == nil {
		return nil
	}
	err := errors.Join(r.data.Close(), r.idx.Close())
	r.data, r.idx = nil, nil
	return err
}
