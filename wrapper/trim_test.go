package wrapper

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// fileMemory is what of mapped files lies in this process's memory, in kB.
func fileMemory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What the start has touched goes, and all works on.
func TestTrimProgram(t *testing.T) {
	before := fileMemory(t)
	trimProgram()
	if after := fileMemory(t); after >= before {
		t.Errorf("%d kB before, %d kB after", before, after)
	}
}

func TestFileMappings(t *testing.T) {
	maps := `00400000-00c94000 r-xp 00000000 fe:00 1577 /opt/my tools/saltpeter
00c94000-014be000 r--p 00894000 fe:00 1577 /opt/my tools/saltpeter
014be000-01539000 rw-p 010be000 fe:00 1577 /opt/my tools/saltpeter
01539000-03583000 rw-p 00000000 00:00 0 
7f0000000000-7f0000001000 r--p 00000000 fe:00 99 /opt/my tools/saltpeter.old
7ffd4db02000-7ffd4db23000 rw-p 00000000 00:00 0 [stack]
torn-line r--p 0 0 0 /opt/my tools/saltpeter
`
	want := []mapping{{0x400000, 0x894000}, {0xc94000, 0x82a000}}
	if got := fileMappings(maps, "/opt/my tools/saltpeter"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
