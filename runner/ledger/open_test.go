package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOneServerADirectory(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	_, err := Open(t.Context(), Options{Dir: dir})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second server: %v", err)
	}
	if _, err := OpenReadOnly(t.Context(), dir); !errors.Is(err, ErrLocked) {
		t.Errorf("reader beside a server: %v", err)
	}
	apply(t, l, Watermark{Job: "j", At: noon}) // the refused one has harmed nothing
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	ro, err := OpenReadOnly(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	l = openTest(t, dir) // a reader holds no server up
	apply(t, l, Watermark{Job: "j", At: noon})
	if _, err := ro.Output(TaskID{}); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
	if _, err := ro.Prune(t.Context(), noon); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, []byte("text"))
	junk := filepath.Join(dir, "junk")
	if err := os.Mkdir(junk, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, bookPath(junk), []byte(strings.Repeat("no database at all, ", 100)))
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	execAll(t, foreign, `CREATE TABLE other (x TEXT)`)
	for _, c := range []struct {
		dir, says string
		is        error
	}{
		{"", "none is named", nil},
		{file, "not a directory", nil},
		{filepath.Join(file, "below"), "not a directory", nil},
		{junk, "no database of saltpeter", ErrVersion},
		{foreign, "database of something else", ErrVersion},
	} {
		_, err := Open(t.Context(), Options{Dir: c.dir})
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "cannot open the state directory: ") ||
			c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.dir, err)
		}
	}
	if data, err := os.ReadFile(bookPath(junk)); err != nil || !strings.HasPrefix(string(data), "no database") {
		t.Error("the file that is no database was written to")
	}
	for _, none := range []string{filepath.Join(dir, "nowhere"), dir} {
		if _, err := OpenReadOnly(t.Context(), none); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no server has used") {
			t.Errorf("%s: %v", none, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a reader made a directory")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Options{Dir: filepath.Join(dir, "cancelled")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	l := openTest(t, filepath.Join(dir, "deep", "er")) // made where missing
	info, err := os.Stat(l.dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	if info, err := os.Stat(bookPath(l.dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// execAll changes a book behind the ledger's back.
func execAll(t *testing.T, dir string, statements ...string) {
	t.Helper()
	db, err := sql.Open(driverName, "file:"+bookPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVersions(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir).Close()
	for version, says := range map[string]string{"99": fmt.Sprintf("has version 99, this saltpeter knows up to %d: start the newer", schemaVersion), "x": `says version "x"`} {
		execAll(t, dir, `UPDATE book SET value = '`+version+`' WHERE name = 'version'`)
		_, err := Open(t.Context(), Options{Dir: dir})
		if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", version, err)
		}
		if _, err := OpenReadOnly(t.Context(), dir); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", version, err)
		}
	}
	execAll(t, dir, fmt.Sprintf(`UPDATE book SET value = '%d' WHERE name = 'version'`, schemaVersion))
	openTest(t, dir).Close() // no attempt has damaged it
}

func TestMigration(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir).Close()
	execAll(t, dir, `UPDATE book SET value = '1' WHERE name = 'version'`)
	db, err := openDB(bookPath(dir), modeWrite, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var steps []string
	step := func(name string) migration {
		return func(ctx context.Context, conn *sql.Conn) error {
			steps = append(steps, name)
			_, err := conn.ExecContext(ctx, `CREATE TABLE `+name+` (x TEXT)`)
			return err
		}
	}
	to3 := map[int]migration{1: step("one"), 2: step("two")}
	if err := migrateBook(t.Context(), conn, "book", 4, to3); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("a step is missing: %v", err)
	}
	if fmt.Sprint(steps) != "[one two]" {
		t.Error(steps)
	}
	if err := migrateBook(t.Context(), conn, "book", 3, map[int]migration{1: step("three"), 2: step("four")}); err != nil {
		t.Fatal(err)
	}
	if v, err := bookValue(t.Context(), conn, "version"); v != "3" || err != nil {
		t.Error(v, err)
	}
	conn.Close()
	db.Close()
	execAll(t, dir, fmt.Sprintf(`UPDATE book SET value = '%d' WHERE name = 'version'`, schemaVersion+1))
	if _, err := Open(t.Context(), Options{Dir: dir}); !errors.Is(err, ErrVersion) {
		t.Errorf("opened a later book: %v", err)
	}
}

func TestApplyWhileClosing(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	answers := make(chan error, 200)
	recorded := make(chan string, 200)
	started := make(chan struct{}, 200)
	for i := range 200 {
		go func() {
			job := fmt.Sprint(i)
			started <- struct{}{}
			_, err := l.Apply(t.Context(), Watermark{Job: job, At: noon.Add(time.Duration(i))})
			if err == nil {
				recorded <- job
			}
			answers <- err
		}()
	}
	for range 100 {
		<-started
	}
	l.Close()
	for range 200 {
		if err := <-answers; err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	close(recorded)
	l = openTest(t, dir)
	marks, err := l.Watermarks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for job := range recorded {
		n++
		if _, ok := marks[job]; !ok {
			t.Errorf("%s was acknowledged", job)
		}
	}
	if n != len(marks) {
		t.Errorf("%d acknowledged, %d recorded", n, len(marks))
	}
}

// SIGKILL does not show whether a commit was on the disk; the settings do.
func TestCommitsAreSynced(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir).Close()
	db, err := openDB(bookPath(dir), modeWrite, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal"} {
		var got string
		if err := db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %s, %v", pragma, got, err)
		}
	}
}
