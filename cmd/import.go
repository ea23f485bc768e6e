package cmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/config"
)

// importCall is one call of import.
type importCall struct {
	*app
	system  bool
	user    string
	machine string
	zones   []string
	shadow  bool
	write   string
	force   bool
	names   string
}

func (a *app) importVerb() *cobra.Command {
	i := &importCall{app: a}
	c := &cobra.Command{
		Use:   "import [MACHINE:]FILE…",
		Short: "Crontabs to a job file; needs no server",
		Long: `Turns crontabs into one job file that does the same: users' crontabs, /etc/crontab, and
the files of /etc/cron.d. FILE may be a folder of crontabs, or - for standard input.

A FILE is a crontab of this machine, MACHINE:FILE a copy of another's (write ./a:b for a
file with a colon in its name). Lines that are the same on several machines become one
job with a list of targets. Whether a crontab has a column of users is told by its path,
else by its lines.

A job's name comes from its command, with a suffix where several have the same. When
crontabs are imported again, jobs keep the names that they have in the file that --force
replaces, or that --names names, whatever was added, taken out or moved; so they keep
their history. A job is known again by what it does, else by its user and command, else
by its user and the only command of that name. No new job gets a name of that file.

What cannot be carried over stands in the output as a comment at its place, and on
standard error with file and line. Exit code 0: every line was carried over; 1: some
were not, or nothing could be read.`,
		Example: `  saltpeter import /etc/crontab /etc/cron.d -w /etc/saltpeter/cron.yaml
  saltpeter import --shadow /var/spool/cron/crontabs     disabled jobs, for a look by saltpeter next
  saltpeter import /etc/crontab /etc/cron.d -w /etc/saltpeter/cron.yaml --force    again, after an edit
  crontab -l | saltpeter import -                        your own crontab
  saltpeter import --timezone UTC web1:web1.tab web2:web2.tab    copies from two machines`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return i.run(args) },
	}
	f := c.Flags()
	f.BoolVar(&i.system, "system", false, "the files are system crontabs: a user stands in front of each command")
	f.StringVar(&i.user, "user", "", "the files are this user's crontabs")
	f.StringVar(&i.machine, "machine", "", "the machine of files that name none (default this one)")
	f.StringArrayVar(&i.zones, "timezone", nil, "`[MACHINE:]ZONE` the machines' cron goes by (default, for this machine, its own)")
	f.BoolVar(&i.shadow, "shadow", false, "make the jobs disabled: next shows when they would fire")
	f.StringVarP(&i.write, "write", "w", "", "write to this file instead of standard output; it must not exist yet")
	f.BoolVar(&i.force, "force", false, "with -w: replace the file; jobs keep the names that they have in it")
	f.StringVar(&i.names, "names", "", "a `FILE` that was imported before: jobs keep the names that they have in it")
	return c
}

func (i *importCall) run(args []string) error {
	if i.system && i.user != "" {
		return usage("--system and --user cannot stand together: a user's crontab has no column of users")
	}
	zones, err := i.zoneTable()
	if err != nil {
		return err
	}
	var files []config.Crontab
	var skipped []config.ImportNote
	var machines []string
	taken, stdin := map[importFile][]string{}, false
	for _, arg := range args {
		machine, path := splitMachine(arg)
		if machine == "" {
			machine = i.machine
		}
		if machine == "" {
			machine = config.HostName()
		}
		if strings.ContainsFunc(machine, func(c rune) bool { return c <= ' ' || c == ',' || c == 0x7f }) {
			return usage("%q cannot be the name of a machine", machine)
		}
		if path == "-" {
			if stdin {
				return usage("standard input can be read only once; give each machine's crontab as a file")
			}
			stdin = true
		}
		machines = append(machines, machine)
		zone, err := i.zone(zones, machine)
		if err != nil {
			return err
		}
		more, left, err := i.read(path)
		if err != nil {
			return err
		}
		for k := range more {
			more[k].Machine, more[k].Zone = machine, zone
		}
		more, again := takeOnce(taken, more)
		files, skipped = append(files, more...), append(append(skipped, left...), again...)
	}
	if err := zonesUsed(zones, machines); err != nil {
		return err
	}
	before, err := i.before()
	if err != nil {
		return err
	}
	result := config.ImportCrontabs(files, config.ImportOptions{Shadow: i.shadow, Before: before, IsUser: func(name string) bool {
		_, err := user.Lookup(name)
		return err == nil
	}})
	result.Notes = append(skipped, result.Notes...)
	return i.put(result)
}

// before is the earlier result whose names are kept, nil if there is none. One that
// cannot be read is not passed over: its jobs would lose their history by it.
func (i *importCall) before() (*config.Set, error) {
	path, hint := i.names, "mend it, or name another file"
	if path == "" && i.write != "" && i.force {
		if _, err := os.Lstat(i.write); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		path, hint = i.write, "mend it, or delete it: then the jobs are named anew"
	}
	if path == "" {
		return nil, nil
	}
	set, err := config.ReadJobFile(path)
	if err != nil {
		return nil, failed(fmt.Errorf("cannot keep the names of the jobs in %s: %w", path, err), hint)
	}
	return set, nil
}

// splitMachine reads MACHINE:FILE as scp does: a colon behind a slash is the
// file's own.
func splitMachine(arg string) (machine, file string) {
	if n := strings.IndexByte(arg, ':'); n > 0 && !strings.Contains(arg[:n], "/") && arg[n+1:] != "" {
		return arg[:n], arg[n+1:]
	}
	return "", arg
}

// zoneTable reads --timezone; "" is the zone of machines that are not named.
func (i *importCall) zoneTable() (map[string]string, error) {
	zones := map[string]string{}
	for _, text := range i.zones {
		machine, zone, named := strings.Cut(text, ":")
		if !named {
			machine, zone = "", text
		}
		if _, err := time.LoadLocation(zone); err != nil || zone == "" || zone == "Local" {
			return nil, &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("there is no time zone %q", zone), hint: "write an IANA name such as --timezone Europe/Bucharest, or --timezone web1:Europe/Bucharest"}
		}
		zones[machine] = zone
	}
	return zones, nil
}

// zonesUsed refuses a zone of a machine that no file is of: a name that was mistyped
// would leave that machine's jobs in another zone.
func zonesUsed(zones map[string]string, machines []string) error {
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		if name != "" && !slices.Contains(machines, name) {
			return &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("--timezone %s:%s is of a machine that no crontab here is of", name, zones[name]),
				hint: fmt.Sprintf("write the crontab as %s:FILE, or the name that stands in front of the file", name)}
		}
	}
	return nil
}

func (i *importCall) zone(zones map[string]string, machine string) (string, error) {
	for _, name := range []string{machine, ""} {
		if zone := zones[name]; zone != "" {
			return zone, nil
		}
	}
	if machine == config.HostName() {
		if zone := config.HostZone("/"); zone != "" {
			return zone, nil
		}
	}
	return "", &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf("the time zone of %s is not known", machine),
		hint: fmt.Sprintf("say --timezone %s:Europe/Bucharest, or --timezone UTC for all machines; `readlink /etc/localtime` there tells it", machine)}
}

// maxCrontab is what a crontab may have; more is no crontab.
const maxCrontab = 1 << 20

// read takes a file, a folder of files, or standard input. Names that cron passes
// over in a folder are passed over too, and told.
func (i *importCall) read(path string) ([]config.Crontab, []config.ImportNote, error) {
	info, err := os.Stat(path)
	if path == "-" {
		text, err := io.ReadAll(io.LimitReader(i.in, maxCrontab+1))
		if err != nil || len(text) > maxCrontab {
			return nil, nil, failed(fmt.Errorf("cannot read standard input: %w", orTooLarge(err)), "give it a crontab, as `crontab -l` prints one")
		}
		return []config.Crontab{i.crontab("standard input", strconv.Itoa(os.Getuid()), text)}, nil, nil
	}
	if err != nil {
		return nil, nil, failed(cannotImport(path, err), "name crontabs, or a folder of them")
	}
	if !info.IsDir() {
		f, err := i.file(path)
		return []config.Crontab{f}, nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, nil, failed(cannotImport(path, err), "")
	}
	var files []config.Crontab
	var left []config.ImportNote
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		info, err := os.Stat(name)
		switch {
		case err == nil && info.IsDir():
			continue
		case passedOver(e.Name()):
			left = append(left, config.ImportNote{File: name, Text: "left out, as cron does by its name; name the file itself to import it"})
			continue
		}
		f, err := i.file(name)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	return files, left, nil
}

// passedOver are names that every cron leaves out of a folder.
func passedOver(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") {
		return true
	}
	return slices.Contains([]string{".rpmsave", ".rpmorig", ".rpmnew", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-bak", ".bak", ".orig", ".swp", ".disabled"}, filepath.Ext(name))
}

func (i *importCall) file(path string) (config.Crontab, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return config.Crontab{}, failed(cannotImport(path, err), "name crontabs that this user may read")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCrontab+1))
	if err != nil || len(text) > maxCrontab {
		return config.Crontab{}, failed(cannotImport(path, orTooLarge(err)), "name crontabs")
	}
	owner := "root"
	if info, err := f.Stat(); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			owner = strconv.Itoa(int(st.Uid))
		}
	}
	return i.crontab(path, owner, text), nil
}

func (i *importCall) crontab(path, uid string, text []byte) config.Crontab {
	c := config.Crontab{Path: path, User: i.user, Owner: uid, Text: text}
	if u, err := user.LookupId(uid); err == nil {
		c.Owner = u.Username
	}
	switch {
	case i.system:
		c.Kind = config.SystemCrontab
	case i.user != "":
		c.Kind = config.UserCrontab
	}
	return c
}

func orTooLarge(err error) error {
	if err == nil {
		return errors.New("it is larger than 1 MiB")
	}
	return err
}

func cannotImport(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("cannot read %s: %w", path, err)
}

// put writes the result where it is wanted, and what people must know of it to
// standard error.
func (i *importCall) put(result *config.Import) error {
	for _, n := range result.Notes {
		i.say("saltpeter: %s", printable(n.String()))
	}
	switch {
	case i.write != "":
		if err := i.writeFile(result.Text); err != nil {
			return err
		}
		i.say("saltpeter: wrote %s to %s; %s not carried over", plural(len(result.Set.Order), "job", "jobs"), i.write, plural(result.Lost(), "line", "lines"))
		if !strings.HasSuffix(i.write, ".yaml") {
			i.say("saltpeter: note: the server reads only files whose names end in .yaml")
		}
	case i.output != "json":
		if _, err := i.out.Write(result.Text); err != nil {
			return err
		}
	}
	if i.output == "json" {
		if err := i.json(importAnswer(result)); err != nil {
			return err
		}
	}
	if result.Lost() > 0 {
		return quiet(exitFailed)
	}
	return nil
}

func importAnswer(result *config.Import) any {
	jobs := map[string]any{}
	for name, j := range result.Set.Jobs {
		jobs[name] = j.Raw
	}
	notes := result.Notes
	if notes == nil {
		notes = []config.ImportNote{}
	}
	return map[string]any{"jobs": jobs, "notes": notes, "lost": result.Lost()}
}

// writeFile makes a new file; the server must never read half of one, and
// nobody's edits may go without a word. Only its owner may read it: so it is with
// users' crontabs, and their variables may be secrets.
func (i *importCall) writeFile(text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(i.write), ".#"+filepath.Base(i.write)+"-*")
	if err != nil {
		return failed(fmt.Errorf("cannot write %s: %w", i.write, err), "name another place with -w")
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err = tmp.Write(text); err == nil {
		err = tmp.Sync()
	}
	if err == nil && i.force {
		err = os.Rename(tmp.Name(), i.write)
	} else if err == nil {
		err = os.Link(tmp.Name(), i.write)
	}
	if errors.Is(err, fs.ErrExist) {
		return failed(fmt.Errorf("cannot write %s: there is such a file, and it may have edits", i.write), "choose another name, or replace it with --force")
	}
	if err != nil {
		return failed(fmt.Errorf("cannot write %s: %w", i.write, err), "name another place with -w")
	}
	return nil
}
