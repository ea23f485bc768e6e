package cmd

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// room is one row of the house: what its files may import of ours, and which
// outside modules. Standard packages are free but for those named in never.
type room struct {
	ours    []string
	outside []string
	never   []string // standard packages that would break what the room is for
}

// house is the import table. An arrow that is not in it does not compile here:
// adding one is a decision, not a convenience.
var house = map[string]room{
	"config/targets": {never: []string{"os", "net", "net/http", "os/exec"}},
	"wsx/wire":       {never: []string{"os", "net", "net/http", "os/exec"}},
	"wsx":            {ours: []string{"wsx/wire"}, outside: []string{"github.com/gorilla/websocket"}, never: []string{"os/exec", "database/sql"}},
	"sshx":           {outside: []string{"golang.org/x/crypto", "github.com/kevinburke/ssh_config", "github.com/skeema/knownhosts"}},
	"runner/ledger":  {ours: []string{"wsx/wire"}, outside: []string{"modernc.org/sqlite", "golang.org/x/sys"}, never: []string{"net", "net/http", "os/exec"}},
	"config":         {ours: []string{"config/targets"}, outside: []string{"go.yaml.in/yaml/v4", "github.com/robfig/cron/v3", "github.com/fsnotify/fsnotify"}, never: []string{"log", "log/slog", "os/exec", "net/http"}},
	"runner/launch":  {ours: []string{"sshx", "wsx/wire"}, outside: []string{"golang.org/x/sys"}, never: []string{"net/http"}},
	"wrapper":        {ours: []string{"wsx", "wsx/wire"}, outside: []string{"golang.org/x/sys"}},
	"runner":         {ours: []string{"config", "config/targets", "runner/ledger", "runner/launch", "wsx", "wsx/wire"}, never: []string{"net/http", "os/exec"}},
	"runner/report":  {ours: []string{"runner/ledger", "wsx/wire"}},
	"runner/api":     {ours: []string{"runner", "runner/ledger", "config", "wsx", "wsx/wire"}, outside: []string{"golang.org/x/sys"}},
	"cmd": {ours: []string{"config", "config/targets", "runner", "runner/api", "runner/launch", "runner/ledger", "runner/report", "sshx", "wrapper", "wsx", "wsx/wire"},
		outside: []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/term", "golang.org/x/sys", "github.com/coreos/go-systemd/v22"}},
	"cmd/saltpeter":       {ours: []string{"cmd"}},
	"testdata/killtable":  {},
	"testdata/oldwrapper": {ours: []string{"wsx", "wsx/wire"}},
	"testdata/lab":        {outside: []string{"golang.org/x/sys", "golang.org/x/crypto"}},
}

// TestHouse reads the imports of every file itself: a test that asks the go
// command is answered from the test cache when a file elsewhere changes.
func TestHouse(t *testing.T) {
	const module = "saltpeter/"
	seen := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != ".." && (strings.HasPrefix(name, ".") || name == "bin" || name == "dist") {
				return filepath.SkipDir
			}
			if name == "testdata" && path != filepath.Join("..", "testdata") {
				return filepath.SkipDir // programs that tests build
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		place, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		place = filepath.ToSlash(place)
		row, known := house[place]
		if !known {
			t.Errorf("%s: package %s has no row in the import table: which room is it?", path, place)
			return nil
		}
		seen[place] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := row.refuses(module, name); why != "" {
				t.Errorf("%s imports %s: %s", path, name, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join("..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range house {
		for _, outside := range row.outside {
			if !strings.Contains(string(mod), "\t"+outside+" v") {
				t.Errorf("the row of %s allows %s, which go.mod does not require", name, outside)
			}
		}
	}
	if len(seen) < 10 {
		var names []string
		for name := range seen {
			names = append(names, name)
		}
		sort.Strings(names)
		t.Fatalf("only %d packages were read (%s): the test looks at the wrong place", len(seen), strings.Join(names, " "))
	}
}

// refuses says why a room must not import a package, or "".
func (r room) refuses(module, name string) string {
	first, _, _ := strings.Cut(name, "/")
	switch {
	case strings.HasPrefix(name, module):
		for _, ours := range r.ours {
			if name == module+ours {
				return ""
			}
		}
		return "its row has no arrow there"
	case strings.Contains(first, "."):
		for _, outside := range r.outside {
			if name == outside || strings.HasPrefix(name, outside+"/") {
				return ""
			}
		}
		return "its row does not name this module"
	}
	for _, never := range r.never {
		if name == never {
			return "it is what this room must never do"
		}
	}
	return ""
}

// TestTopLevel keeps the list of top-level folders short: a new one is a
// redesign.
func TestTopLevel(t *testing.T) {
	allowed := map[string]bool{"cmd": true, "runner": true, "wrapper": true, "sshx": true, "wsx": true, "config": true,
		"testdata": true, "docs": true, "examples": true, "packaging": true, "bin": true, "dist": true}
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !allowed[e.Name()] {
			t.Errorf("top-level folder %s is not one of the house's", e.Name())
		}
	}
}
