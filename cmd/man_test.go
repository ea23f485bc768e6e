package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Man pages are made of the help texts, by `make man`, which runs this test with
// a folder to write them to. What makes them is linked into no program.
func TestManPages(t *testing.T) {
	dir := os.Getenv("SALTPETER_MAN_DIR")
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root := (&app{}).root()
	root.DisableAutoGenTag = true
	epoch := time.Unix(0, 0).UTC() // the same pages each time
	header := &doc.GenManHeader{Title: "SALTPETER", Section: "1", Source: "saltpeter", Manual: "Saltpeter", Date: &epoch}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		if !c.IsAvailableCommand() && c != root {
			return // doc leaves out what is no verb, such as topics
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(page), ".SH NAME") || !strings.Contains(string(page), c.Short) && !strings.Contains(c.Short, "`") {
			t.Errorf("%s has no page, or not its own: %v", c.CommandPath(), err)
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check(root)
}
