package lab

import (
	"os/exec"
	"strings"
	"testing"
)

func TestBusybox(t *testing.T) {
	out, err := exec.Command(Busybox(t), "echo", "here").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "here" {
		t.Fatalf("busybox echo said %q: %v", out, err)
	}
}

func TestProgramThatIsNowhere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if path, err := program("no-such-program", "no-such-package", "bin/none"); err == nil {
		t.Fatalf("found %q", path)
	}
}
