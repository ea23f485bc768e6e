package config

import (
	"fmt"
	"path"
	"strings"
)

// CrontabKind says whether the lines of a crontab have a column of users.
type CrontabKind int

const (
	GuessCrontab  CrontabKind = iota // by its path, else by its lines
	SystemCrontab                    // /etc/crontab and the files in /etc/cron.d
	UserCrontab                      // what crontab -e edits
)

// spools are the folders that keep users' crontabs under the users' names:
// Debian's, SUSE's, the BSDs', Red Hat's.
var spools = []string{"/spool/cron/crontabs", "/spool/cron/tabs", "/cron/tabs", "/spool/cron"}

// kindByPath tells a crontab by where it lies, or where the folder that it was
// copied from lay.
func kindByPath(name string) (kind CrontabKind, user string) {
	name = path.Clean("/" + name)
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if path.Base(dir) == "cron.d" || base == "crontab" && path.Base(dir) == "etc" {
		return SystemCrontab, ""
	}
	for _, spool := range spools {
		if strings.HasSuffix(dir, spool) && userName.get().MatchString(base) {
			return UserCrontab, base
		}
	}
	return GuessCrontab, ""
}

// commonUser says whether systems have a user of this name, for files of other machines.
func commonUser(name string) bool {
	switch name {
	case "root", "daemon", "bin", "nobody", "mail", "www-data", "apache", "nginx", "http",
		"postgres", "mysql", "git", "backup", "munin", "list", "news", "uucp", "smmsp":
		return true
	}
	return false
}

// kindByLines tells a crontab by the word behind the fields: a system's has a
// user there on every line. why is what it goes by, for people to check.
func kindByLines(text []byte, isUser func(string) bool) (kind CrontabKind, why string) {
	users, others, odd := 0, 0, ""
	for num, line := range crontabLines(text) {
		l := readCronLine(num, line, false)
		if l.kind != entryLine || l.wrong != nil {
			continue
		}
		word, rest := firstWord(l.entry.rest)
		if rest != "" && userName.get().MatchString(word) && (commonUser(word) || isUser != nil && isUser(word)) {
			users++
			continue
		}
		if others++; odd == "" {
			odd = fmt.Sprintf("line %d has %q behind its times, which is no user that is known here", num, cut(word))
		}
	}
	switch {
	case users == 0 && others == 0:
		return UserCrontab, "no line of it runs anything"
	case others == 0:
		return SystemCrontab, "every line has a user behind its times"
	}
	return UserCrontab, odd
}
