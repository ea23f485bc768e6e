package cmd

import (
	"os"
	"path/filepath"
	"syscall"

	"saltpeter/config"
)

// A crontab that is named twice, say by itself and by its folder, must not have its
// jobs run twice.

// importFile is a file on disk, whatever path led to it.
type importFile struct {
	machine  string
	dev, ino uint64
}

// takeOnce leaves out what has been taken for the machine already, and says so. A file
// that has another name as well is two crontabs, to cron too: links in a folder of
// crontabs, or those of several users.
func takeOnce(taken map[importFile][]string, files []config.Crontab) (first []config.Crontab, left []config.ImportNote) {
	for _, f := range files {
		id, known := fileOf(f)
		if !known {
			first = append(first, f)
			continue
		}
		same := ""
		for _, path := range taken[id] {
			if filepath.Base(path) == filepath.Base(f.Path) {
				same = path
			}
		}
		switch {
		case same != "":
			left = append(left, config.ImportNote{File: f.Path, Text: "taken once: for " + f.Machine + " it is the same file as " + same})
			continue
		case len(taken[id]) > 0:
			left = append(left, config.ImportNote{File: f.Path, Text: "is " + taken[id][0] + " by another name, and both are taken for " + f.Machine + ", as cron does; name one of them if its jobs are to run once"})
		}
		taken[id] = append(taken[id], f.Path)
		first = append(first, f)
	}
	return first, left
}

// fileOf tells which file a crontab is; only regular files are the same at each reading.
func fileOf(f config.Crontab) (importFile, bool) {
	info, err := os.Stat(f.Path)
	if err != nil || !info.Mode().IsRegular() {
		return importFile{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return importFile{}, false
	}
	return importFile{f.Machine, uint64(st.Dev), st.Ino}, true
}
