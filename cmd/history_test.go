package cmd

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"saltpeter/runner/ledger"
)

// A book of another version is told apart from a folder that is none.
func TestHistoryOfAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	book, err := ledger.Open(t.Context(), ledger.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := book.Close(); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{"1": "start the server on it once", "99": "the newer saltpeter"} {
		db, err := sql.Open("sqlite", filepath.Join(dir, "ledger.db"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.ExecContext(t.Context(), "UPDATE book SET value = ? WHERE name = 'version'", version)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		_, _, err = (&app{}).past(t.Context(), dir)
		var f *failure
		if !errors.As(err, &f) || f.stable != "state_version" || !strings.Contains(f.hint, want) || !strings.Contains(f.text, "has version "+version) {
			t.Errorf("version %s: %+v", version, err)
		}
	}
}
