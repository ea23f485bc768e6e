package config

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// watched is a Watch under test. Its goroutine is joined by the test's cleanup.
type watched struct {
	sets   chan *Set
	errors chan error
}

func watch(t *testing.T, dir string, o WatchOptions) *watched {
	t.Helper()
	return watchFrom(t, dir, load(t, dir, nil), o)
}

func watchFrom(t *testing.T, dir string, first *Set, o WatchOptions) *watched {
	t.Helper()
	w := &watched{sets: make(chan *Set, 1000), errors: make(chan error, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- Watch(ctx, dir, first, o, func(s *Set) { w.sets <- s }, func(err error) { w.errors <- err })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return w
}

const patience = 20 * time.Second

// until waits for a set that is as wanted and returns all that came on the way.
func (w *watched) until(t *testing.T, what string, ok func(*Set) bool) []*Set {
	t.Helper()
	var all []*Set
	timeout := time.After(patience)
	for {
		select {
		case s := <-w.sets:
			if all = append(all, s); ok(s) {
				return all
			}
		case err := <-w.errors:
			t.Logf("failed: %v", err)
		case <-timeout:
			t.Fatalf("%s did not come; sets: %d", what, len(all))
		}
	}
}

// command waits until job a runs the command.
func (w *watched) command(t *testing.T, want string) []*Set {
	t.Helper()
	return w.until(t, "command "+want, func(s *Set) bool { return s.Jobs["a"] != nil && s.Jobs["a"].Command == want })
}

func jobA(command string) string {
	return fmt.Sprintf("a:\n  schedule: '@daily'\n  command: %s\n  targets: '*'\n", command)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Every way in which people and programs change a file, with the options as
// they are outside of tests.
func TestWatchEveryWayOfWriting(t *testing.T) {
	ways := map[string]func(t *testing.T, dir, path string){
		"written in place": func(t *testing.T, dir, path string) { write(t, dir, "a.yaml", jobA("new")) },
		"sed -i": func(t *testing.T, dir, path string) {
			if out, err := exec.Command("sed", "-i", "s/old/new/", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
		"as vim does it": func(t *testing.T, dir, path string) {
			probe := filepath.Join(dir, "4913")
			must(t, os.WriteFile(probe, nil, 0o600), os.Remove(probe), os.Rename(path, path+"~"),
				os.WriteFile(path, []byte(jobA("new")), 0o644), os.Chmod(path, 0o600), os.Remove(path+"~"))
		},
		"temporary file and rename": func(t *testing.T, dir, path string) {
			must(t, os.WriteFile(filepath.Join(dir, ".a.yaml.tmp1234"), []byte(jobA("new")), 0o644),
				os.Rename(filepath.Join(dir, ".a.yaml.tmp1234"), path))
		},
		"renamed into the directory from elsewhere": func(t *testing.T, dir, path string) {
			write(t, filepath.Dir(dir), "ready", jobA("new"))
			must(t, os.Rename(filepath.Join(filepath.Dir(dir), "ready"), path))
		},
		"removed and written again": func(t *testing.T, dir, path string) {
			must(t, os.Remove(path))
			write(t, dir, "a.yaml", jobA("new"))
		},
		"hard link replaced by a symlink": func(t *testing.T, dir, path string) {
			write(t, filepath.Dir(dir), "target", jobA("new"))
			must(t, os.Remove(path), os.Symlink("../target", path))
		},
		"directory replaced": func(t *testing.T, dir, path string) {
			must(t, os.Mkdir(dir+".new", 0o755))
			write(t, dir+".new", "a.yaml", jobA("new"))
			must(t, os.Rename(dir, dir+".old"), os.Rename(dir+".new", dir))
		},
		"directory removed and made again": func(t *testing.T, dir, path string) {
			must(t, os.RemoveAll(dir), os.Mkdir(dir, 0o755))
			write(t, dir, "a.yaml", jobA("new"))
		},
	}
	for name, change := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "jobs")
			must(t, os.Mkdir(dir, 0o755))
			write(t, dir, "a.yaml", jobA("old"))
			w := watch(t, dir, WatchOptions{})
			change(t, dir, filepath.Join(dir, "a.yaml"))
			start := time.Now()
			sets := w.command(t, "new")
			t.Logf("in effect after %v", time.Since(start))
			for _, s := range sets {
				if s.Jobs["a"] == nil {
					t.Error("on the way the job was gone")
				}
			}
			// What watches now watches the files that are there now.
			write(t, filepath.Dir(dir), "newer", jobA("newer"))
			must(t, os.Rename(filepath.Join(filepath.Dir(dir), "newer"), filepath.Join(dir, "a.yaml")))
			w.command(t, "newer")
		})
	}
}

func TestWatchConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(n, command string) {
		must(t, os.Mkdir(filepath.Join(dir, "..v"+n), 0o755))
		write(t, dir, "..v"+n+"/a.yaml", jobA(command))
		must(t, os.Symlink("..v"+n, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("1", "old")
	must(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	w := watch(t, dir, WatchOptions{})
	version("2", "new")
	must(t, os.RemoveAll(filepath.Join(dir, "..v1")))
	w.command(t, "new")
	version("3", "newer")
	w.command(t, "newer")
}

func TestWatchDirectoryBehindALink(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for n, command := range map[string]string{"1": "old", "2": "new"} {
		must(t, os.MkdirAll(filepath.Join(root, "release"+n, "jobs"), 0o755))
		write(t, root, "release"+n+"/jobs/a.yaml", jobA(command))
	}
	must(t, os.Symlink("release1", filepath.Join(root, "current")))
	w := watch(t, filepath.Join(root, "current", "jobs"), WatchOptions{})
	must(t, os.Symlink("release2", filepath.Join(root, "next")), os.Rename(filepath.Join(root, "next"), filepath.Join(root, "current")))
	w.command(t, "new")
	write(t, root, "release2/jobs/a.yaml", jobA("newer"))
	w.command(t, "newer")
}

func TestWatchBreakingAndMending(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", jobA("old"))
	write(t, dir, "b.yaml", "b: "+job)
	w := watch(t, dir, WatchOptions{Quiet: 50 * time.Millisecond})
	breaks := []func(){
		func() { write(t, dir, "a.yaml", "a: [\n") },
		func() { must(t, os.Truncate(filepath.Join(dir, "a.yaml"), 0)) },
	}
	if os.Getuid() != 0 {
		breaks = append(breaks, func() { must(t, os.Chmod(filepath.Join(dir, "a.yaml"), 0)) })
	} else {
		t.Log("as root every file can be read: not tried without permission")
	}
	for _, change := range breaks {
		change()
		sets := w.until(t, "a broken file", func(s *Set) bool { return len(s.Errors()) > 0 })
		s := sets[len(sets)-1]
		if f := fileOf(t, s, "a.yaml"); !f.Broken || !f.LastGood || s.Jobs["a"].Command != "old" || s.Jobs["b"] == nil {
			t.Errorf("file %+v, jobs %q", f, s.Order)
		}
		must(t, os.Chmod(filepath.Join(dir, "a.yaml"), 0o644))
		write(t, dir, "a.yaml", jobA("old"))
		w.until(t, "the mended file", func(s *Set) bool { return len(s.Problems) == 0 })
	}
	must(t, os.Remove(filepath.Join(dir, "a.yaml")))
	w.until(t, "the deletion", func(s *Set) bool { return slices.Equal(s.Order, []string{"b"}) && len(s.Problems) == 0 })
}

// Half of the file is valid YAML with half of the jobs: nobody may ever see it.
func TestWatchSlowWriter(t *testing.T) {
	t.Parallel()
	const quiet = time.Second
	for range 5 {
		dir := t.TempDir()
		write(t, dir, "a.yaml", jobA("old")+"b: "+job)
		w := watch(t, dir, WatchOptions{Quiet: quiet, Most: 30 * time.Second})
		f, err := os.Create(filepath.Join(dir, "a.yaml"))
		must(t, err)
		text, slowest, last := jobA("new")+"b: "+job, time.Duration(0), time.Now()
		for len(text) > 0 {
			n := min(len(text), 9)
			_, err := f.WriteString(text[:n])
			must(t, err)
			text = text[n:]
			slowest, last = max(slowest, time.Since(last)), time.Now()
			pause(t, 100*time.Millisecond)
		}
		must(t, f.Close())
		sets := w.until(t, "the whole file", func(s *Set) bool { return s.Jobs["b"] != nil && s.Jobs["a"].Command == "new" })
		if slowest > quiet/2 {
			t.Logf("the machine was too busy to write in time (%v), once more", slowest)
			continue
		}
		if len(sets) != 1 {
			t.Errorf("%d sets were delivered, and only the whole file is one", len(sets))
		}
		return
	}
	t.Skip("the machine is too busy to tell a slow writer from one that stopped")
}

// pause is the writer's own slowness, which is what the test is about.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	<-time.After(d)
}

// Where no event comes (NFS, a link that leads out) the rescan finds the change.
func TestWatchRescan(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere, "a", jobA("old"))
	must(t, os.Symlink(filepath.Join(elsewhere, "a"), filepath.Join(dir, "a.yaml")))
	w := watch(t, dir, WatchOptions{Quiet: 200 * time.Millisecond, Rescan: 100 * time.Millisecond})
	// An event of the directory's own shows that the first look is over.
	write(t, dir, "b.yaml", "b: "+job)
	w.until(t, "the other file", func(s *Set) bool { return s.Jobs["b"] != nil })
	write(t, elsewhere, "a", jobA("new"))
	w.command(t, "new")
	// A slow writer out there: what is seen once only is not acted on.
	for i := range 20 {
		write(t, elsewhere, "a", jobA(fmt.Sprint("half", i)))
		pause(t, 20*time.Millisecond)
	}
	write(t, elsewhere, "a", jobA("whole"))
	if sets := w.command(t, "whole"); len(sets) > 3 {
		t.Errorf("%d sets came while somebody was writing", len(sets))
	}
}

func TestWatchDirectoryGoneAndBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "jobs")
	must(t, os.Mkdir(dir, 0o755))
	write(t, dir, "a.yaml", jobA("old"))
	first := load(t, dir, nil)
	w := watchFrom(t, dir, first, WatchOptions{Quiet: 50 * time.Millisecond, Rescan: 100 * time.Millisecond})
	must(t, os.Rename(dir, dir+".away"))
	select {
	case err := <-w.errors:
		if !strings.Contains(err.Error(), "no such directory; create it or name another with -c") {
			t.Errorf("failed says %v", err)
		}
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	must(t, os.WriteFile(dir, nil, 0o644))
	select {
	case err := <-w.errors:
		if !strings.Contains(err.Error(), "it is not a directory") {
			t.Errorf("failed says %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the other error was not told")
	}
	must(t, os.Remove(dir), os.Rename(dir+".away", dir))
	sets := w.until(t, "the end of the failure", func(s *Set) bool { return s.Serial == first.Serial })
	if len(sets) != 1 {
		t.Errorf("%d sets", len(sets))
	}
	write(t, dir, "a.yaml", jobA("new"))
	w.command(t, "new")
	for len(w.errors) > 0 {
		if err := <-w.errors; !strings.Contains(err.Error(), "no such directory") {
			t.Errorf("an error was told twice: %v", err)
		}
	}
}

// What changes nothing is not delivered, and what changes between the first Load
// and Watch is.
func TestWatchDeliversDifferencesOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", jobA("old"))
	first := load(t, dir, nil)
	write(t, dir, "a.yaml", jobA("meanwhile"))
	w := watchFrom(t, dir, first, WatchOptions{Quiet: 50 * time.Millisecond, Rescan: 200 * time.Millisecond})
	w.command(t, "meanwhile")
	for i := range 5 {
		write(t, dir, "a.yaml", jobA("meanwhile"))
		write(t, dir, fmt.Sprintf("unrelated%d", i), "")
		must(t, os.Chtimes(filepath.Join(dir, "a.yaml"), time.Time{}, time.Unix(int64(i), 0)))
		pause(t, 100*time.Millisecond)
	}
	write(t, dir, "a.yaml", jobA("new"))
	if sets := w.command(t, "new"); len(sets) != 1 {
		t.Errorf("%d sets came, and one thing changed", len(sets))
	}
}

// Somebody who writes without end puts reading off, but not for ever.
func TestWatchMost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", jobA("old"))
	w := watch(t, dir, WatchOptions{Quiet: 10 * time.Second, Most: 500 * time.Millisecond, Rescan: time.Hour})
	write(t, dir, "a.yaml", jobA("new"))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_ = os.WriteFile(filepath.Join(dir, "noise"), []byte("x"), 0o644)
			}
		}
	}()
	start := time.Now()
	w.command(t, "new")
	close(stop)
	<-stopped
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("it took %v, and 500 ms are the most", d)
	}
}

// In effect within 2 s: the best of a few tries, for a machine that is busy.
func TestWatchIsInEffectWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", jobA("old"))
	w := watch(t, dir, WatchOptions{})
	best := time.Hour
	for i := range 5 {
		command := fmt.Sprint("new", i)
		start := time.Now()
		write(t, dir, "a.yaml", jobA(command))
		w.command(t, command)
		if best = min(best, time.Since(start)); best < 2*time.Second {
			return
		}
	}
	t.Errorf("the fastest took %v", best)
}
