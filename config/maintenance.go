package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

// holdBack is a saltpeter_maintenance as one file gives it. A part that is wrong
// is marked, so that its last good value goes on holding back: the wrong
// direction to fail in would be to start what somebody meant to stop.
type holdBack struct {
	global      bool
	machines    []string
	badGlobal   bool
	badMachines bool
	line        int
	globalLine  int // of each part; 0 = it is not said
	machineLine int
}

const maintenanceKey = "saltpeter_maintenance"

func readMaintenance(s *scope, key, v *value) *holdBack {
	h := &holdBack{line: key.line}
	if isNull(v) {
		return h
	}
	in := s.inside(maintenanceKey + ".")
	in.faults(v, "")
	if v.kind != mappingKind {
		in.fail(v, "", "is not a mapping", "write global: true, or machines: with a list, indented below it")
	}
	if in.bad {
		h.badGlobal, h.badMachines = true, true
		return h
	}
	in.doubled(v)
	for _, p := range v.pairs {
		switch key := p.key.text; key {
		case "global":
			if isNull(p.val) {
				continue
			}
			h.globalLine = p.key.line
			is, ok := in.boolean(key, p.val)
			h.global, h.badGlobal = is, !ok
		case "machines":
			if isNull(p.val) {
				continue
			}
			h.machineLine = p.key.line
			list, ok := in.texts(key, p.val)
			h.badMachines = !ok
			if p.val.kind == scalarKind && ok {
				list = strings.FieldsFunc(strings.Join(list, ","), func(r rune) bool { return r == ',' || r == ' ' })
			}
			h.machines = list
		default:
			in.unknown(p.key, []string{"global", "machines"})
		}
	}
	return h
}

// overlay keeps from before what is wrong now.
func (h *holdBack) overlay(before *holdBack) *holdBack {
	if before == nil || !h.badGlobal && !h.badMachines {
		return h
	}
	kept := *h
	if h.badGlobal {
		kept.global = before.global
	}
	if h.badMachines {
		kept.machines = before.machines
	}
	return &kept
}

// places is what a file holds back, and in which of its lines.
func (h *holdBack) places(file string) []Place {
	var places []Place
	if h.global {
		places = append(places, Place{File: file, Line: cmp.Or(h.globalLine, h.line)})
	}
	for _, m := range h.machines {
		places = append(places, Place{Machine: m, File: file, Line: cmp.Or(h.machineLine, h.line)})
	}
	return places
}

// Holding is the set with more held back than its files say, as if they said so; with
// a serial of its own. Places stays what the files say.
func (s *Set) Holding(global bool, machines []string) *Set {
	if !global && len(machines) == 0 {
		return s
	}
	held := *s
	held.Maintenance.Global = s.Maintenance.Global || global
	held.Maintenance.Machines = slices.Clone(s.Maintenance.Machines)
	for _, m := range machines {
		if !slices.Contains(held.Maintenance.Machines, m) {
			held.Maintenance.Machines = append(held.Maintenance.Machines, m)
		}
	}
	h := sha256.New()
	_, _ = io.WriteString(h, s.Serial+fmt.Sprintf("\nheld back: %t %q", global, machines))
	held.Serial = hex.EncodeToString(h.Sum(nil))
	return &held
}

// Resting reports whether maintenance keeps a job from every machine that it names.
func (s *Set) Resting(j *Job) bool {
	if s.Maintenance.Global || len(s.Maintenance.Machines) == 0 {
		return s.Maintenance.Global
	}
	match, _, err := s.Matching(j)
	return err == nil && len(match) > 0 && !slices.ContainsFunc(match, func(m Machine) bool {
		return !slices.Contains(s.Maintenance.Machines, m.Name)
	})
}
