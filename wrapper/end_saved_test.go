package wrapper

import (
	"os"
	"path/filepath"
	"testing"
)

// An end record that the machine's crash left empty is no record: its code is
// unknown, and the spool is delivered all the same.
func TestEmptyEndRecord(t *testing.T) {
	d := &taskDir{path: t.TempDir()}
	if err := os.WriteFile(filepath.Join(d.path, endName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := d.readEnd(); r != nil || err != nil {
		t.Errorf("read %+v, %v", r, err)
	}
}
