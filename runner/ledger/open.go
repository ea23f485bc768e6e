package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// Options say where the book is kept.
type Options struct {
	Dir string // state directory; created 0700 if missing
}

// Ledger is the open book. It is safe for concurrent use.
//
// One goroutine, the writer, owns the writing connection and all that is
// remembered of unfinished tasks; it ends with Close. Readers have connections
// of their own. The locks are never held together.
type Ledger struct {
	dir    string
	server string

	lock  *os.File // nil when open for reading only
	write *sql.DB  // likewise
	read  *sql.DB

	immutable bool   // the files are read as they are: a server that starts meanwhile would change them
	temp      string // a copy that is read instead; removed by Close

	requests chan *request
	closing  chan struct{} // closed by Close: no more requests
	done     chan struct{} // closed by the writer when it has ended
	once     sync.Once
	closeErr error

	fault atomic.Pointer[Fault] // of the last commit; nil: it went well

	tokenLock sync.RWMutex
	tokens    map[string]TaskID // by hash

	trace func(query string, args []any) // tests look at what is read, and how

	newsLock sync.Mutex
	newsCame chan struct{} // closed and replaced when there is more news

	outputLock sync.Mutex
	outputs    map[int64]*outputFile // open for writing, by key of the task
}

func bookPath(dir string) string { return filepath.Join(dir, "ledger.db") }

// Open takes the state directory's lock and opens the book for writing.
// ErrLocked (names the holder's pid), ErrVersion, ErrFull.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	l, err := open(ctx, o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the state directory: %w", err)
	}
	return l, nil
}

func open(ctx context.Context, dir string) (_ *Ledger, err error) {
	dir, err = stateDir(dir)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		dir:      dir,
		requests: make(chan *request, maxRequests),
		closing:  make(chan struct{}),
		done:     make(chan struct{}),
		tokens:   map[string]TaskID{},
		outputs:  map[int64]*outputFile{},
		newsCame: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			l.closeFiles()
			err = advise(dir, err)
		}
	}()
	if l.lock, err = takeLock(ctx, dir); err != nil {
		return nil, err
	}
	if err := createFile(dir, bookPath(dir)); err != nil {
		return nil, err
	}
	if l.write, err = openDB(bookPath(dir), modeWrite, 1); err != nil {
		return nil, err
	}
	if l.read, err = openDB(bookPath(dir), modeRead, 4); err != nil {
		return nil, err
	}
	conn, err := l.write.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if err := prepareBook(ctx, conn, bookPath(dir)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if l.server, err = bookValue(ctx, conn, "server"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// The writer outlives the context of whoever opens the book.
	w, err := newWriter(context.WithoutCancel(ctx), l, conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go w.run()
	return l, nil
}

// stateDir makes the directory where it is missing.
func stateDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("none is named")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", advise(dir, err)
		}
	case err != nil:
		return "", advise(dir, err)
	case !info.IsDir():
		return "", fmt.Errorf("%s is not a directory: move it away or name another state directory", dir)
	}
	return dir, nil
}

// createFile makes a file that only its owner reads, and its name durable.
func createFile(dir, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// advise says what to do about failures that people meet when they open a book.
func advise(dir string, err error) error {
	err = explain(dir, err)
	switch {
	case errors.Is(err, ErrFull), errors.Is(err, ErrLocked), errors.Is(err, ErrVersion):
	case errors.Is(err, fs.ErrPermission), primaryCode(err) == codeReadOnly, primaryCode(err) == codeCantOpen:
		return fmt.Errorf("%w: %s must be writable for uid %d: run as its owner or name another state directory", err, dir, os.Geteuid())
	}
	return err
}

// OpenReadOnly reads a book whose server is down; ErrLocked if one runs. It needs
// no right to write and leaves no mark; what a killed server had acknowledged is
// seen even if it is still in the log only.
func OpenReadOnly(ctx context.Context, dir string) (*Ledger, error) {
	l, err := openReadOnly(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the state directory: %w", err)
	}
	return l, nil
}

func openReadOnly(ctx context.Context, dir string) (_ *Ledger, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(bookPath(dir)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: no server has used %s yet: start one there or name another state directory", err, dir)
		}
		return nil, err
	}
	if err := probeLock(dir); err != nil {
		return nil, err
	}
	l := &Ledger{dir: dir}
	defer func() {
		if err != nil {
			l.closeFiles()
			err = explain(dir, err)
		}
	}()
	// Beside a log, the plain way works where its index can be made or read.
	err = l.tryRead(ctx, bookPath(dir), modeRead)
	if code := primaryCode(err); code != codeCantOpen && code != codeReadOnly && code != codeIO {
		return l, err
	}
	if info, statErr := os.Stat(bookPath(dir) + "-wal"); statErr != nil || info.Size() == 0 {
		l.immutable = true
		return l, l.tryRead(ctx, bookPath(dir), modeImmutable)
	}
	// A log and no right to make its index: only a copy can be read with both.
	if l.temp, err = copyBook(dir); err != nil {
		return nil, err
	}
	return l, l.tryRead(ctx, bookPath(l.temp), modeWrite)
}

// tryRead opens the database and reads the first thing from it.
func (l *Ledger) tryRead(ctx context.Context, path, mode string) error {
	db, err := openDB(path, mode, 2)
	if err != nil {
		return err
	}
	if mode == modeWrite {
		err = noSync(ctx, db)
	}
	if err == nil {
		err = l.readBook(ctx, db, path)
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	l.read = db
	return nil
}

func (l *Ledger) readBook(ctx context.Context, db *sql.DB, path string) error {
	var books int
	if err := db.QueryRowContext(ctx, bind(countBooks)).Scan(&books); err != nil {
		return err
	}
	if books == 0 {
		return fmt.Errorf("%w: %s holds no book yet: start a server there or name another state directory", fs.ErrNotExist, path)
	}
	v, err := bookVersion(ctx, db, path)
	if err != nil {
		return err
	}
	if v < schemaVersion {
		return fmt.Errorf("%w: %s has version %d, this saltpeter reads %d: start its server once, which brings it up to date", ErrOlder, path, v, schemaVersion)
	}
	l.server, err = bookValue(ctx, db, "server")
	return err
}

// copyBook copies database and log to a directory of its own.
func copyBook(dir string) (temp string, err error) {
	temp, err = os.MkdirTemp("", "saltpeter-ledger-")
	if err != nil {
		return "", err
	}
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(bookPath(dir)+suffix, bookPath(temp)+suffix); err != nil {
			return "", errors.Join(err, os.RemoveAll(temp))
		}
	}
	// A server that started meanwhile may have moved pages from one to the other.
	if err := probeLock(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(temp))
	}
	return temp, nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// Close waits for what was asked of the writer before, then lets the directory
// go. Outputs are closed by who opened them. Closing twice is harmless.
func (l *Ledger) Close() error {
	l.once.Do(func() {
		if l.closing != nil {
			close(l.closing)
			<-l.done
		}
		l.closeErr = l.closeFiles()
	})
	return l.closeErr
}

// closeFiles closes the lock last: another server may start from then on.
func (l *Ledger) closeFiles() error {
	var errs []error
	if l.read != nil {
		errs = append(errs, l.read.Close())
	}
	if l.write != nil {
		errs = append(errs, l.write.Close())
	}
	if l.temp != "" {
		errs = append(errs, os.RemoveAll(l.temp))
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

// ServerID is the random id of this state directory, made once.
func (l *Ledger) ServerID() string { return l.server }
