package wrapper

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// account is whom the job runs as.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32 // supplementary; its own, never the wrapper's
	change            bool     // another user than the wrapper: credentials must be set
}

const userLookupLimit = 10 * time.Second // a directory service that hangs must not hang the start

// credential is nil where the job stays the user that the wrapper is.
func (a *account) credential() *syscall.Credential {
	if !a.change {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}

// findAccount finds the user that an order names; "" is the wrapper's own.
func findAccount(name string) (*account, error) {
	own := os.Geteuid()
	if name == "" {
		a, err := lookupAccount(strconv.Itoa(own))
		if err != nil { // a number without a name, as in many containers
			a = &account{name: strconv.Itoa(own), home: "/", shell: "/bin/sh", uid: uint32(own), gid: uint32(os.Getegid())}
		}
		return a, nil
	}
	a, err := lookupAccount(name)
	if err != nil {
		return nil, err
	}
	if own != 0 && int(a.uid) != own {
		return nil, fmt.Errorf("cannot run as user %s: the wrapper runs as uid %d and only root may change users; start it as root or as %s", name, own, name)
	}
	if own != 0 {
		return a, nil
	}
	a.change = true
	a.groups, err = supplementary(a)
	return a, err
}

// lookupAccount reads /etc/passwd itself, since the static binary's os/user
// would do no more and does not tell the shell; who is not there is asked of the
// machine's own name service.
func lookupAccount(name string) (*account, error) {
	if name == "" || strings.HasPrefix(name, "-") || strings.ContainsAny(name, ":\x00\n/ ") {
		return nil, fmt.Errorf("cannot run as user %q: that is no user name", name)
	}
	passwd, _ := os.ReadFile("/etc/passwd")
	if a, ok := findPasswd(passwd, name); ok {
		return a, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), userLookupLimit)
	defer cancel()
	out, err := runQuiet(ctx, "getent", "passwd", name)
	if a, ok := findPasswd(out, name); ok {
		return a, nil
	}
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("cannot run as user %s: getent passwd gave no answer within %s", name, userLookupLimit)
	}
	return nil, fmt.Errorf("cannot run as user %s: there is no such user on this machine", name)
}

// findPasswd finds a name, or failing that a number, in the text of passwd(5).
func findPasswd(text []byte, name string) (*account, bool) {
	var byNumber *account
	for line := range bytes.Lines(text) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) < 7 || strings.HasPrefix(f[0], "#") {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err != nil || err2 != nil {
			continue
		}
		a := &account{name: f[0], uid: uint32(uid), gid: uint32(gid), home: f[5], shell: f[6]}
		if a.home == "" {
			a.home = "/"
		}
		if a.shell == "" {
			a.shell = "/bin/sh"
		}
		if f[0] == name {
			return a, true
		}
		if byNumber == nil && f[2] == name {
			byNumber = a
		}
	}
	return byNumber, byNumber != nil
}

// supplementary are the groups that list a user as member, and its primary one.
func supplementary(a *account) ([]uint32, error) {
	if passwd, _ := os.ReadFile("/etc/passwd"); isLocal(passwd, a.name) {
		group, _ := os.ReadFile("/etc/group")
		return groupsOf(group, a), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), userLookupLimit)
	defer cancel()
	out, err := runQuiet(ctx, "id", "-G", a.name)
	if err != nil {
		return nil, fmt.Errorf("cannot run as user %s: cannot ask `id -G` for its groups: %w", a.name, err)
	}
	groups := []uint32{a.gid}
	for word := range strings.FieldsSeq(string(out)) {
		gid, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot run as user %s: `id -G` answered %q", a.name, printable(word))
		}
		if !slices.Contains(groups, uint32(gid)) {
			groups = append(groups, uint32(gid))
		}
	}
	return groups, nil
}

func isLocal(passwd []byte, name string) bool {
	a, ok := findPasswd(passwd, name)
	return ok && a.name == name
}

// groupsOf reads the text of group(5).
func groupsOf(text []byte, a *account) []uint32 {
	groups := []uint32{a.gid}
	for line := range bytes.Lines(text) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), a.name) {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && !slices.Contains(groups, uint32(gid)) {
			groups = append(groups, uint32(gid))
		}
	}
	return groups
}

// runQuiet runs a short command and returns its standard output. It may only be
// used before prepare: afterwards the engine reaps every child of this process,
// and what it does not know it takes for a process of the job.
func runQuiet(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + jobPath, "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	return cmd.Output()
}
