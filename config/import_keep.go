package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// A job's history goes by its name. So what was imported before keeps the name that it
// got then, or that people have given it since, whatever stands beside it now.

// ReadJobFile reads one job file by itself. An empty one has no jobs; one that the
// server would not take as a whole is an error.
func ReadJobFile(path string) (*Set, error) {
	dir, name := path[:strings.LastIndexByte(path, '/')+1], path[strings.LastIndexByte(path, '/')+1:]
	data, err := readRegular(path)
	if err != nil {
		text, _ := unreadable(err)
		return nil, errors.New(text)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}\n")
	}
	l := newLoading(dir, nil)
	l.add(l.content(name, data))
	set := l.merge()
	if errs := set.Errors(); len(errs) > 0 {
		return nil, errors.New(errs[0].String())
	}
	return set, nil
}

// sameness is a way to know a job again.
type sameness struct {
	key   func(j *importJob) any
	pairs func(old, now []*importJob) bool // whether those that are the same can be told apart by their order
}

// samenesses are all ways, the surest first: after all that a job does comes what
// outlasts the edit of a variable, of a schedule, and of the command's arguments.
var samenesses = []sameness{
	{func(j *importJob) any { return j.does }, func(_, _ []*importJob) bool { return true }}, // copies of one line
	{func(j *importJob) any { return []any{j.does.User, j.does.Command, j.does.Zone, j.does.Times} }, asMany},
	{func(j *importJob) any { return []any{j.does.User, j.does.Command} }, asMany},
	{namesake, func(old, now []*importJob) bool {
		return len(old) == 1 && len(now) == 1 && old[0].alone && now[0].alone
	}},
}

func asMany(old, now []*importJob) bool { return len(old) == len(now) }

// namesake is what jobs of one user have in common whose commands have the same name.
func namesake(j *importJob) any { return [2]string{j.does.User, nameOf(j.does.Command)} }

// markAlone marks the jobs that have no namesake. All count, also those that are known
// again by more: what is left over beside them may as well be a new job.
func markAlone(jobs []*importJob) {
	count := map[any]int{}
	for _, j := range jobs {
		count[namesake(j)]++
	}
	for _, j := range jobs {
		j.alone = count[namesake(j)] == 1
	}
}

// keepNames names the jobs that an earlier result has, and notes which of its jobs
// are no longer there.
func (im *importer) keepNames() {
	if im.o.Before == nil {
		return
	}
	old := earlierJobs(im.o.Before)
	var now []*importJob
	for _, item := range im.items {
		if item.job != nil {
			now = append(now, item.job)
		}
	}
	markAlone(old)
	markAlone(now)
	for _, s := range samenesses {
		for _, machines := range []bool{true, false} { // first those that are still on the same ones
			old = s.keep(old, now, machines)
		}
	}
	for _, j := range old {
		was := im.o.Before.Jobs[j.name]
		im.notes = append(im.notes, ImportNote{File: filePath(im.o.Before.Dir, was.File), Line: was.Line,
			Text: "no line of these crontabs is the job " + j.name + " any more; its name is not given to another one"})
	}
}

// olderGoHome is what goHome was: files that were imported with it keep their names.
const olderGoHome = "cd || exit\n"

// earlierJobs are the jobs of a job file as an import would have them.
func earlierJobs(set *Set) []*importJob {
	var jobs []*importJob
	for _, name := range set.Order {
		j := set.Jobs[name]
		does := cronJob{User: j.User, Zone: j.Location.String(), Times: j.Fields, Command: j.Command, Cwd: j.Cwd, Env: j.Env}
		if rest, older := strings.CutPrefix(does.Command, olderGoHome); older {
			does.Command = goHome + rest
		}
		jobs = append(jobs, &importJob{does: does, name: name, machines: strings.Split(j.Targets, ",")})
	}
	return jobs
}

// keep gives the names of old jobs to those that have none yet and are the same, and
// returns the old ones that are left.
func (s sameness) keep(old, now []*importJob, machines bool) []*importJob {
	key := func(j *importJob) string {
		parts := []any{s.key(j)}
		if machines {
			parts = append(parts, slices.Sorted(slices.Values(j.machines)))
		}
		text, _ := json.Marshal(parts) // strings only: it cannot fail
		return string(text)
	}
	before, unnamed := map[string][]*importJob{}, map[string][]*importJob{}
	for _, j := range old {
		before[key(j)] = append(before[key(j)], j)
	}
	for _, j := range now {
		if j.name == "" {
			unnamed[key(j)] = append(unnamed[key(j)], j)
		}
	}
	kept := map[*importJob]bool{}
	for k, same := range unnamed {
		if !s.pairs(before[k], same) {
			continue
		}
		for i := range min(len(before[k]), len(same)) {
			same[i].name = before[k][i].name
			kept[before[k][i]] = true
		}
	}
	return slices.DeleteFunc(old, func(j *importJob) bool { return kept[j] })
}
