package launch

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/sshx"
	"saltpeter/testdata/lab"
)

// putRig is a machine with /var/lib, /run and homes of its own, reached as root.
type putRig struct {
	*lab.Server
	client *sshx.Client
	log    lab.Buffer
	rig
}

func newPutRig(t *testing.T, config ...string) *putRig {
	d := lab.SSHD(t, lab.SSHDOptions{Config: append([]string{"MaxStartups 100"}, config...)})
	needWorld(t, d)
	return &putRig{Server: d, client: sshClient(t, d), rig: rig{machine: Machine{Name: "there", SSH: login(d)}, login: true}}
}

func (r *putRig) transport(t *testing.T, change ...func(*SSHOptions)) *secureShell {
	o := SSHOptions{Client: r.client, Executable: self(t), Log: slog.New(slog.NewTextHandler(&r.log, nil))}
	for _, c := range change {
		c(&o)
	}
	s := newSSH(o)
	t.Cleanup(func() { s.Close() })
	return s
}

// on runs a command on the machine.
func (r *putRig) on(t *testing.T, script string) string {
	t.Helper()
	out, err := r.World.Command("", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func (r *putRig) name(t *testing.T, s *secureShell) string {
	t.Helper()
	all, err := s.builds.all()
	if err != nil {
		t.Fatal(err)
	}
	return all[runtime.GOARCH].name()
}

func (r *putRig) mustStart(t *testing.T, s *secureShell) {
	t.Helper()
	k, res := begin(t, r.rig, s, "sleep 300", "")
	if res.Certainty != Started {
		t.Fatalf("%s: %v", res.Certainty, res.Err)
	}
	k.awaitMembers(2)
}

// Many first starts on one machine put the binary there once, whole, and whoever
// comes later finds it. One that has gone is put there again.
func TestPutOnce(t *testing.T) {
	r := newPutRig(t)
	s := r.transport(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if k, res := begin(t, r.rig, s, "sleep 300", ""); res.Certainty != Started {
				t.Errorf("%s: %v %v", res.Certainty, res.Err, k)
			}
		})
	}
	wg.Wait()
	path := "/var/lib/saltpeter/" + r.name(t, s)
	if n := strings.Count(r.log.String(), "put the wrapper"); n != 1 {
		t.Errorf("it was put there %d times", n)
	}
	if got := r.on(t, "ls -A /var/lib/saltpeter; stat -c %a:%U "+path); got != filepath.Base(path)+"\n755:root\n" {
		t.Errorf("there lies %q", got)
	}
	r.on(t, "cmp "+path+" "+self(t))
	r.mustStart(t, r.transport(t))
	if n := strings.Count(r.log.String(), "put the wrapper"); n != 1 {
		t.Errorf("a second server put it there again")
	}
	r.on(t, "rm "+path)
	r.mustStart(t, s)
	if n := strings.Count(r.log.String(), "put the wrapper"); n != 2 {
		t.Errorf("it was not put there again: %d", n)
	}
}

// A place that serves not is passed over, with the reason where none does.
func TestPutPlaces(t *testing.T) {
	r := newPutRig(t)
	r.on(t, `mkdir -p /var/lib/saltpeter && chmod 0777 /var/lib/saltpeter
mkdir -p /run/saltpeter && mount -t tmpfs -o noexec,mode=755 none /run/saltpeter`)
	s := r.transport(t)
	r.mustStart(t, s)
	home := filepath.Join(r.World.Users["root"].Home, ".local/lib/saltpeter")
	if got := strings.TrimSpace(r.on(t, "ls "+home)); got != r.name(t, s) {
		t.Errorf("at home lies %q", got)
	}
	if got := r.on(t, "ls -A /var/lib/saltpeter /run/saltpeter"); strings.Contains(got, "saltpeter-") {
		t.Errorf("left behind: %q", got)
	}
	s = r.transport(t, func(o *SSHOptions) {
		o.Places = o.Places[:0]
		o.Places = append(o.Places, "/var/lib/saltpeter", "/run/saltpeter", "/proc/saltpeter")
	})
	res := s.Start(soon(t), r.machine, []byte("{}"))
	if res.Certainty != CertainlyNot || errors.Is(res.Err, ErrUnreachable) {
		t.Fatalf("%s: %v", res.Certainty, res.Err)
	}
	for _, say := range []string{"/var/lib/saltpeter: others may write", "/run/saltpeter: nothing may be executed", "/proc/saltpeter: permission denied", "wrapper_path"} {
		if !strings.Contains(res.Err.Error(), say) {
			t.Errorf("it does not say %q: %v", say, res.Err)
		}
	}
}

// push: false puts nothing there, and takes what lies there.
func TestPutForbidden(t *testing.T) {
	r := newPutRig(t)
	r.machine.NoPush = true
	s := r.transport(t)
	name := r.name(t, s)
	res := s.Start(soon(t), r.machine, []byte("{}"))
	if res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), "push: false") || !strings.Contains(res.Err.Error(), "/var/lib/saltpeter/"+name) {
		t.Errorf("%s: %v", res.Certainty, res.Err)
	}
	if got := r.on(t, "ls -A /var/lib /run"); strings.Contains(got, "saltpeter") {
		t.Errorf("something was put there: %s", got)
	}
	r.on(t, "mkdir /var/lib/saltpeter && cp "+self(t)+" /var/lib/saltpeter/"+name)
	r.mustStart(t, s)
}

// A machine of another architecture gets the build for it, or is told what is
// missing where.
func TestPutForeign(t *testing.T) {
	bin := t.TempDir()
	if err := os.Chmod(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	uname := "#!/bin/sh\ncase $1 in -s) echo Linux ;; *) echo riscv64 ;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "uname"), []byte(uname), 0o755); err != nil {
		t.Fatal(err)
	}
	r := newPutRig(t, "SetEnv PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin")
	dir := t.TempDir()
	s := r.transport(t, func(o *SSHOptions) { o.Builds = []string{dir} })
	res := s.Start(soon(t), r.machine, []byte("{}"))
	if res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), "saltpeter-linux-riscv64 into "+dir) {
		t.Errorf("%s: %v", res.Certainty, res.Err)
	}
	// This very program stands in for one of that machine.
	data, err := os.ReadFile(self(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "saltpeter-linux-riscv64"), append(data, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.mustStart(t, s)
	all, err := s.builds.all()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(r.on(t, "ls -A /var/lib/saltpeter")); got != all["riscv64"].name() || got == all[runtime.GOARCH].name() {
		t.Errorf("there lies %q", got)
	}
	// One that cannot run there is not left there.
	if err := os.WriteFile(filepath.Join(dir, "saltpeter-linux-riscv64"), []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.forgetAll()
	res = s.Start(soon(t), r.machine, []byte("{}"))
	if res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), "does not run from it") {
		t.Errorf("%s: %v", res.Certainty, res.Err)
	}
}

func (s *secureShell) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = map[string]*arrival{}
}

// Builds that nobody has used for long go with the next one that comes; one that
// still runs, others' files, and fresh ones stay.
func TestPutCleansUp(t *testing.T) {
	r := newPutRig(t)
	dir := "/var/lib/saltpeter"
	long := time.Now().Add(-30 * 24 * time.Hour).Format("200601021504")
	r.on(t, fmt.Sprintf(`mkdir %[1]s && cd %[1]s && cp /bin/sleep saltpeter-0123456789abcde1 && : >saltpeter-0123456789abcde2 && : >saltpeter-0123456789abcde3
: >saltpeter-notes && : >.saltpeter-0123456789abcde4.X.new
touch -t %[2]s saltpeter-*[123] saltpeter-notes .saltpeter-*.new; touch saltpeter-0123456789abcde3`, dir, long))
	running := r.World.Command("", dir+"/saltpeter-0123456789abcde1", "300")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer running.Wait()
	defer running.Process.Kill()
	eventually(t, "it to run", func() bool {
		exe, _ := exec.Command("readlink", fmt.Sprintf("/proc/%d/exe", running.Process.Pid)).Output()
		return strings.Contains(string(exe), "abcde1")
	})
	s := r.transport(t)
	r.mustStart(t, s)
	want := []string{"saltpeter-0123456789abcde1", "saltpeter-0123456789abcde3", r.name(t, s), "saltpeter-notes"}
	got := strings.Fields(r.on(t, "LC_ALL=C ls -A "+dir))
	if len(got) != len(want) {
		t.Errorf("there lies %q, want %q", got, want)
	}
	for _, name := range want {
		if !strings.Contains(strings.Join(got, " "), name) {
			t.Errorf("%s is gone: %q", name, got)
		}
	}
}

// A login without rights and with sudo: launch and kill go through it.
func TestPutWithSudo(t *testing.T) {
	pam := "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession required pam_permit.so\n"
	d := lab.SSHD(t, lab.SSHDOptions{Options: lab.WorldOptions{
		Packages: []string{"sudo", "libapparmor1"},
		Etc:      map[string]string{"sudoers": "root ALL=(ALL:ALL) ALL\nspuser ALL=(ALL:ALL) NOPASSWD: ALL\n", "pam.d/sudo": pam},
	}})
	needWorld(t, d)
	g := rig{machine: Machine{Name: "there", SSH: "spuser@" + d.Addr, Sudo: true, Spool: filepath.Join(t.TempDir(), "spool")}, login: true}
	if err := os.MkdirAll(g.machine.Spool, 0o700); err != nil {
		t.Fatal(err)
	}
	tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: forEverybody(t)})
	defer tr.Close()
	speak(t, g, tr)
}

// An upgrade reaches machines that have an older build, and no others.
func TestUpgrade(t *testing.T) {
	r := newPutRig(t)
	s := r.transport(t)
	name, err := s.Build()
	if err != nil || name != r.name(t, s) {
		t.Fatalf("%q %v", name, err)
	}
	if done, err := s.Upgrade(soon(t), r.machine); done || err != nil {
		t.Errorf("where nothing was: %v %v", done, err)
	}
	if got := r.on(t, "ls -A /var/lib /run"); strings.Contains(got, "saltpeter") {
		t.Errorf("something was put there: %s", got)
	}
	r.on(t, "mkdir /var/lib/saltpeter && : >/var/lib/saltpeter/saltpeter-0123456789abcdef")
	if done, err := s.Upgrade(soon(t), r.machine); !done || err != nil {
		t.Errorf("where an older one was: %v %v", done, err)
	}
	r.on(t, "test -x /var/lib/saltpeter/"+name)
	if done, err := s.Upgrade(soon(t), r.machine); done || err != nil {
		t.Errorf("again: %v %v", done, err)
	}
	r.machine.NoPush = true
	if done, err := s.Upgrade(soon(t), r.machine); done || err != nil {
		t.Errorf("forbidden: %v %v", done, err)
	}
}
