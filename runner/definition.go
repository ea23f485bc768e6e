package runner

import (
	"encoding/json"
	"fmt"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/wsx/wire"
)

// definitionVersion is the version of definition that this build writes. A run
// keeps the definition that it started with, so every older version must stay
// readable for as long as a run of it can be unfinished.
const definitionVersion = 1

// definition is what a run needs of its job and of its machines: enough to
// launch a later batch, to re-adopt a task or to kill it after the job file has
// changed or gone.
type definition struct {
	Version   int                       `json:"version"`
	Order     wire.Order                `json:"order"` // without run, machine, token and cookie
	LostAfter time.Duration             `json:"lost_after"`
	NoWrapper bool                      `json:"no_wrapper,omitempty"`
	Machines  map[string]launch.Machine `json:"machines"`
}

// define turns a job and the machines of one firing into a definition. Wrappers
// on this machine spool into localSpool, beside the server's own state.
func define(set *config.Set, job *config.Job, machines []config.Machine, localSpool string) definition {
	d := definition{
		Version:   definitionVersion,
		LostAfter: job.LostAfter,
		NoWrapper: !job.UseWrapper,
		Machines:  make(map[string]launch.Machine, len(machines)),
		Order: wire.Order{
			Version:           wire.OrderVersion,
			Job:               job.Name,
			Command:           job.Command,
			Cwd:               job.Cwd,
			User:              job.User,
			Env:               job.Env,
			Timeout:           wire.Seconds(job.Timeout.Seconds()),
			KillSignal:        job.KillSignal,
			KillGrace:         wire.Seconds(job.KillGrace.Seconds()),
			HardLimit:         wire.DefaultHardLimit,
			Drain:             wire.Seconds(job.Drain.Seconds()),
			Leftover:          job.Leftover,
			PauseStopsTimeout: job.PauseStopsTimeout,
			Lockfile:          job.Lockfile,
			AllowOverlap:      job.OnOverlap == "allow",
			Streams:           job.Streams,
			MaxOutput:         job.MaxOutput,
			OnSpoolFull:       job.OnSpoolFull,
			StartWait:         wire.DefaultStartWait,
			LogLevel:          job.WrapperLogLevel,
			LogDir:            job.WrapperLogDir,
		},
	}
	for _, m := range machines {
		d.Machines[m.Name] = reached(set, job, m, localSpool)
	}
	return d
}

// reached is how a machine is reached for a job.
func reached(set *config.Set, job *config.Job, m config.Machine, localSpool string) launch.Machine {
	transport := transportOf(set, job, m)
	if m.Spool == "" && transport == "local" {
		m.Spool = localSpool
	}
	return launch.Machine{
		Name:        m.Name,
		Transport:   transport,
		SSH:         m.SSH,
		Sudo:        m.Sudo,
		WrapperPath: job.WrapperPath,
		NoPush:      !m.Push,
		Tunnel:      m.Tunnel && transport == "ssh",
		ServerHost:  job.ServerHost,
		Spool:       m.Spool,
	}
}

// anyJob is reached for a job that says nothing of its own.
func anyJob(set *config.Set) *config.Job {
	return &config.Job{WrapperPath: set.Settings.WrapperPath, ServerHost: set.Settings.ServerHost}
}

// transportOf says how a machine is reached for a job: the job's word, else the
// server's, else what the inventory says of the machine. What the inventory has
// elsewhere is never "local", whoever says so: the job would run here under that
// machine's name.
func transportOf(set *config.Set, job *config.Job, m config.Machine) string {
	away := m.SSH != "" && !m.Local
	for _, t := range []string{job.Transport, set.Settings.DefaultTransport} {
		if t != "" && t != "auto" && !(t == "local" && away) {
			return t
		}
	}
	if away {
		return "ssh"
	}
	return "local"
}

// encode renders the definition for the ledger.
func (d definition) encode() (json.RawMessage, error) {
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("cannot store the definition: %w", err)
	}
	return raw, nil
}

// decodeDefinition reads what encode wrote, in this version or an older one.
func decodeDefinition(raw json.RawMessage) (definition, error) {
	var d definition
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, fmt.Errorf("cannot read the run's definition: %w", err)
	}
	if d.Version > definitionVersion {
		return d, fmt.Errorf("cannot read the run's definition: it has version %d, this server knows up to %d", d.Version, definitionVersion)
	}
	return d, nil
}

// order is the order of one task, but for what only its launch can know.
func (d definition) order(run, machine string) wire.Order {
	o := d.Order
	o.Run, o.Machine = run, machine
	if spool := d.Machines[machine].Spool; spool != "" {
		o.SpoolDir = spool
	}
	return o
}
