package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// WorldOptions say how a World differs from the machine that it is on.
type WorldOptions struct {
	// Shell is the login shell of root, spuser and spuser2; "" = /bin/sh. It is a path
	// inside the world: "/usr/bin/fish" where Packages has fish.
	Shell string
	// Files are put in each user's home: ".bashrc", ".profile", ".ssh/rc".
	Files map[string]string
	// Packages are unpacked and laid over /usr. A setuid program stays setuid.
	Packages []string
	// Etc are files laid over /etc, such as "sudoers" (0440) and "pam.d/sudo". A real
	// sudo is Packages: "sudo", "libapparmor1" where the machine lacks it, and
	//	Etc: {"sudoers": "root ALL=(ALL:ALL) ALL\nspuser ALL=(ALL:ALL) NOPASSWD: ALL\n", "pam.d/sudo": "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession required pam_permit.so\n"}
	Etc map[string]string
}

// User is somebody who can log in to a World.
type User struct {
	Name     string
	UID, GID int
	Home     string
}

// World is this machine as one test sees it: the same processes and the same
// files, but users, homes, /run, /var/lib and /var/log of its own. Nothing of it
// is visible outside, and what runs in it when the test ends is killed.
// It needs root and the right to mount; a test that has neither is skipped.
type World struct {
	Dir   string // what it is made of; below it run, varlib and varlog
	Users map[string]User

	holder *exec.Cmd
	stdin  io.Closer
	ns     string
}

// NewWorld makes a world that ends with the test.
func NewWorld(t testing.TB, o WorldOptions) *World {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a view of the machine with users of its own")
	}
	for _, tool := range []string{"mount", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
	dir, err := os.MkdirTemp("", "sp-world-")
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Dir: dir, Users: map[string]User{}}
	t.Cleanup(func() {
		w.end(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove the world's folder: %v", err)
		}
	})
	if err := w.build(t, o); err != nil {
		t.Fatalf("cannot build a world: %v", err)
	}
	if err := w.begin(o); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	return w
}

// build writes what is mounted later.
func (w *World) build(t testing.TB, o WorldOptions) error {
	if err := os.Chmod(w.Dir, 0o755); err != nil { // its users go through
		return err
	}
	for _, d := range []string{"run/sshd", "run/sudo", "run/lock", "varlib", "varlog", "home", "etc", "layer/usr"} {
		if err := os.MkdirAll(filepath.Join(w.Dir, d), 0o755); err != nil {
			return err
		}
	}
	shell := o.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	for _, u := range []User{{Name: "root"}, {Name: "spuser", UID: 4101, GID: 4101}, {Name: "spuser2", UID: 4102, GID: 4102}} {
		u.Home = filepath.Join(w.Dir, "home", u.Name)
		w.Users[u.Name] = u
		if err := home(u, o.Files); err != nil {
			return err
		}
	}
	if err := w.accounts(shell); err != nil {
		return err
	}
	for name, text := range o.Etc {
		path := filepath.Join(w.Dir, "etc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if name == "sudoers" {
			mode = 0o440
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return err
		}
	}
	return w.layers(t, o.Packages)
}

// home makes a user's home with its files.
func home(u User, files map[string]string) error {
	if err := os.MkdirAll(u.Home, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		path := filepath.Join(u.Home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return filepath.Walk(u.Home, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.UID, u.GID)
	})
}

// accounts writes passwd, group and shadow: the machine's own with ours before
// them, and the user that sshd gives its unprivileged half to.
func (w *World) accounts(shell string) error {
	var passwd, group, shadow strings.Builder
	for _, name := range []string{"root", "spuser", "spuser2"} {
		u := w.Users[name]
		fmt.Fprintf(&passwd, "%s:x:%d:%d:%s:%s:%s\n", name, u.UID, u.GID, name, u.Home, shell)
		fmt.Fprintf(&shadow, "%s:*:19000:0:99999:7:::\n", name)
		fmt.Fprintf(&group, "%s:x:%d:\n", name, u.GID)
	}
	fmt.Fprintf(&passwd, "sshd:x:4109:65534::/run/sshd:/usr/sbin/nologin\n")
	fmt.Fprintf(&shadow, "sshd:!:19000::::::\n")
	for name, mine := range map[string]*strings.Builder{"passwd": &passwd, "group": &group, "shadow": &shadow} {
		old, err := os.ReadFile("/etc/" + name)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(old)) {
			switch who, _, _ := strings.Cut(line, ":"); who {
			case "root", "spuser", "spuser2", "sshd":
			default:
				mine.WriteString(line)
			}
		}
		mode := os.FileMode(0o644)
		if name == "shadow" {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(w.Dir, "etc", name), []byte(mine.String()), mode); err != nil {
			return err
		}
	}
	return nil
}

// layers unpacks packages and names their /usr trees in w.Dir/layers, one a line.
func (w *World) layers(t testing.TB, pkgs []string) error {
	var lines []string
	for _, pkg := range pkgs {
		root, err := Package(pkg)
		if err != nil {
			t.Skipf("no package %s here: %v", pkg, err)
		}
		if isDir(filepath.Join(root, "usr")) {
			lines = append(lines, filepath.Join(root, "usr"))
		}
		for _, top := range []string{"bin", "sbin", "lib"} { // links into /usr on a machine, folders in older packages
			if isDir(filepath.Join(root, top)) {
				if out, err := exec.Command("cp", "-a", filepath.Join(root, top), filepath.Join(w.Dir, "layer/usr/")).CombinedOutput(); err != nil {
					return fmt.Errorf("cp: %w: %s", err, lastLine(out))
				}
			}
		}
	}
	return os.WriteFile(filepath.Join(w.Dir, "layers"), []byte(strings.Join(lines, "\n")), 0o644)
}

// endOfWorld waits until the test closes its pipe, or is killed itself, and then
// kills what is left: nothing may outlive a test that had no time to clean up.
const endOfWorld = `echo ready
read -r x || :
me=$(readlink /proc/self/ns/mnt)
for i in 1 2 3; do
	for p in /proc/[0-9]*; do
		pid=${p#/proc/}
		if [ "$pid" != $$ ] && [ "$(readlink "$p/ns/mnt" 2>/dev/null)" = "$me" ]; then kill -9 "$pid" 2>/dev/null || :; fi
	done
done
`

// begin starts the process that holds the namespace. /etc is overlaid only where
// something is added to it: replacing files that are there needs bind mounts alone,
// which more containers allow.
func (w *World) begin(o WorldOptions) error {
	script := `set -e
mount --bind "$1/run" /run
mount --bind "$1/varlib" /var/lib
mount --bind "$1/varlog" /var/log
`
	if len(o.Etc) > 0 {
		script += "mount -t overlay overlay -o lowerdir=\"$1/etc:/etc\" /etc\n"
	} else {
		script += "for f in passwd group shadow; do mount --bind \"$1/etc/$f\" \"/etc/$f\"; done\n"
	}
	if len(o.Packages) > 0 {
		script += "mount -t overlay overlay -o lowerdir=\"$1/layer/usr:$(tr '\\n' : <\"$1/layers\"):/usr\" /usr\n"
	}
	script += endOfWorld
	w.holder = exec.Command("sh", "-c", script, "sh", w.Dir)
	w.holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: 0, Setpgid: true}
	var said strings.Builder
	w.holder.Stderr = &said
	in, err := w.holder.StdinPipe()
	if err != nil {
		return err
	}
	out, err := w.holder.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.holder.Start(); err != nil {
		w.holder = nil
		return err
	}
	w.stdin = in
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		w.holder.Wait()
		w.holder = nil
		return fmt.Errorf("%s", lastLine([]byte(said.String())))
	}
	w.ns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", w.holder.Process.Pid))
	return err
}

// Command is a command that runs in the world, as root, with this process's
// environment. Netns is the name of a network namespace, or "".
func (w *World) Command(netns, name string, args ...string) *exec.Cmd {
	pid := strconv.Itoa(w.holder.Process.Pid)
	enter := []string{"--mount=/proc/" + pid + "/ns/mnt"}
	if netns != "" {
		enter = append(enter, "--net=/run/netns/"+netns)
	}
	return exec.Command("nsenter", append(append(enter, "--", name), args...)...)
}

// Processes are the PIDs of all that runs in the world, without its holder.
func (w *World) Processes() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if ns, err := os.Readlink(d + "/ns/mnt"); err == nil && ns == w.ns {
			if pid, err := strconv.Atoi(filepath.Base(d)); err == nil && pid != w.holder.Process.Pid {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// end kills what runs in the world, until nothing does.
func (w *World) end(t testing.TB) {
	if w.holder == nil {
		return
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := w.Processes()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			t.Errorf("processes %v of the world do not end", pids)
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.holder.Process.Kill() // rather than have it look through all processes once more
	w.stdin.Close()
	w.holder.Wait()
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
