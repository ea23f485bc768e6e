package ledger

import (
	"errors"
	"reflect"
	"testing"
)

// What people hold back survives a restart, and a book of the version before gets its
// place for it.
func TestHolds(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	all := Hold{At: at(1), By: "root", From: "unix pid 1", Reason: "kernel upgrade"}
	web := Hold{Machine: "web1", At: at(2), By: "token anna"}
	apply(t, l, HoldSet{Hold{Machine: "web1", At: at(1), By: "root", Reason: "disk"}}, HoldSet{all}, HoldSet{Hold{Machine: "db1", At: at(1)}})
	apply(t, l, HoldSet{web}, HoldLifted{"db1"}, HoldLifted{"nowhere"})
	// Who is refused leaves nothing behind.
	if _, err := l.Apply(t.Context(), HoldLifted{"web1"}, Started{Task: TaskID{"none", "m"}}); !errors.Is(err, ErrNoRun) && !errors.Is(err, ErrNoTask) {
		t.Fatal(err)
	}
	check := func(l *Ledger, want ...Hold) {
		t.Helper()
		if got, err := l.Holds(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	check(l, all, web)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir)
	check(l, all, web)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	execAll(t, dir, `DROP TABLE holds`, `UPDATE book SET value = '2' WHERE name = 'version'`)
	l = openTest(t, dir)
	apply(t, l, HoldSet{all})
	check(l, all)
}
