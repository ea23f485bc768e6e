// Package config turns a directory of YAML files that people edit in place into
// one immutable Set, or into messages at file:line:col that say how to mend
// them. It has the schedules and the watcher. It logs nothing and reads no
// clock: whoever asks brings the time.
package config

import (
	"time"

	"github.com/robfig/cron/v3"

	"saltpeter/config/targets"
)

// Set is everything that the job files say at one moment. It never changes once
// it is made; a reload makes a new one.
type Set struct {
	Dir         string
	Serial      string // hash over everything: equal sets have equal serials
	Jobs        map[string]*Job
	Order       []string // job names in the order of files and lines
	Maintenance Maintenance
	Settings    Settings
	Machines    []Machine // the inventory, in order; never empty unless configured so
	Files       []File
	Problems    []Problem // errors first, then warnings; by file and position

	state *state // what the next reload builds on
}

// Errors returns the problems that are errors.
func (s *Set) Errors() []Problem {
	var errs []Problem
	for _, p := range s.Problems {
		if !p.Warning {
			errs = append(errs, p)
		}
	}
	return errs
}

// File is one that was read.
type File struct {
	Name     string // base name
	Group    string
	Hash     string
	Broken   bool // it could not be used: its jobs are the last good ones
	LastGood bool // jobs of an earlier version are in force
	Jobs     []string
}

// Problem is one thing that is wrong, and where.
type Problem struct {
	File    string `json:"file"` // path as given: DIR/NAME
	Line    int    `json:"line"` // from 1; 0 = the file as a whole
	Col     int    `json:"col"`  // from 1, in characters
	Job     string `json:"job,omitempty"`
	Key     string `json:"key,omitempty"`
	Text    string `json:"text"`           // what is wrong
	Hint    string `json:"hint,omitempty"` // what to write instead
	Warning bool   `json:"warning"`
}

// String is FILE:LINE:COL: job "NAME": KEY: TEXT; HINT.
func (p Problem) String() string { return p.format() }

// Job is one definition. Values are checked and defaults filled in.
type Job struct {
	Name  string
	Group string
	File  string // base name
	Line  int

	Schedule Schedule       // nil: never (disabled by error is not in the Set at all)
	Fields   FieldTexts     // what was written, for display; Fields.Crontab for `schedule:`
	Location *time.Location // never nil

	Command    string
	Targets    string // one expression; a YAML list is joined with commas
	TargetType string
	User, Cwd  string
	Env        map[string]string

	Timeout         time.Duration // 0 = none
	NumberOfTargets int           // 0 = all
	Batch           Size          // zero = all at once
	Canary          int
	MaxFailures     Size
	OnStop          string // finish (default) | kill
	OnOverlap       string // skip (default) | allow | replace | wait
	OnLost          string // wait (default) | start | replace
	Lockfile        string
	UseWrapper      bool
	WrapperPath     string
	WrapperLogLevel string
	WrapperLogDir   string
	ServerHost      string

	CatchUp           string // none (default) | one | all
	CatchUpWindow     time.Duration
	Splay             time.Duration
	KillGrace         time.Duration // default 5 s
	KillSignal        string        // default TERM, without SIG
	Leftover          string        // leave (default) | wait | kill
	Drain             time.Duration // default 2 s
	PauseStopsTimeout bool
	LostAfter         time.Duration // default 5 min
	Retries           int
	RetryDelay        time.Duration
	Transport         string  // "" = default_transport
	Streams           string  // "" | separate
	OnSpoolFull       string  // gap (default) | block
	MaxOutput         int64   // default 1 GiB
	Notify            *Notify // nil: nobody is told
	Enabled           bool
	Description       string
	Raw               map[string]any // the job as written, for the API: strings, numbers, lists, maps
}

// Schedule answers when a job is next due: the first instant strictly after t, in
// any location; the zero time means never.
type Schedule = cron.Schedule

// FieldTexts are the schedule keys as written, trimmed.
type FieldTexts struct {
	Sec, Min, Hour, Dom, Mon, Dow, Year string
	Crontab                             string // key `schedule:`
}

// Size is a number or a share of a total.
type Size struct {
	N       int
	Percent int // 1-100 where it was written as P%
}

// Of returns how many of total the size means; a share is at least 1.
func (s Size) Of(total int) int {
	if s.Percent > 0 {
		return max(1, total*s.Percent/100)
	}
	return s.N
}

// Maintenance holds back new runs.
type Maintenance struct {
	Global   bool     `json:"global"`
	Machines []string `json:"machines"`
	// Source is the file that says so, for messages; Places is where in it.
	Source string  `json:"-"`
	Places []Place `json:"-"`
}

// Place is where a file holds something back.
type Place struct {
	Machine string // "" = everything
	File    string // base name
	Line    int
}

// Settings are the keys of saltpeter_config, defaults filled in.
type Settings struct {
	LogDir                                      string // "" until the server chooses its default
	Debug                                       bool
	API                                         bool   // api_ws
	APIPort                                     int    // 8888
	APIBind                                     string // 127.0.0.1
	APITLS                                      string
	APIAllowedHosts                             []string
	APIAnonymousRole                            string // "" | read | operate
	MachinesPort                                int    // 8889
	MachinesBind                                string // "" = chosen by the inventory: loopback while all are local, else 0.0.0.0
	MachinesTLS                                 string // auto (default) | off | path pair "cert,key"
	ServerHost                                  string // "" = this host's name
	WrapperPath, WrapperLogLevel, WrapperLogDir string
	DefaultLocation                             *time.Location // never nil
	DefaultTransport                            string         // auto (default) | local | ssh | salt
	StateDir                                    string
	Retention                                   time.Duration // 0 = keep 90 days
	SocketGroup                                 string
	TokensFile                                  string
	SSH                                         SSH
	Elasticsearch, OpenSearch                   []string
	ElasticsearchIndex, OpenSearchIndex         string
	AdoptUnknown                                bool
}

// SSH are the settings of the ssh transport.
type SSH struct {
	User          string
	Port          int
	IdentityFiles []string
	KnownHosts    string
	Config        string
	Concurrency   int
}

// Machine is an entry of the inventory.
type Machine struct {
	Name    string
	Local   bool
	SSH     string // user@host:port
	Grains  map[string]any
	Enabled bool
	Sudo    bool
	Push    bool
	Tunnel  bool
	Spool   string
	Source  string // file:line
}

// Target is the machine as target expressions see it.
func (m Machine) Target() targets.Machine {
	return targets.Machine{Name: m.Name, Grains: m.Grains}
}
