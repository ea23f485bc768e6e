package config

import "strings"

// holdBack is a saltpeter_maintenance as one file gives it. A part that is wrong
// is marked, so that its last good value goes on holding back: the wrong
// direction to fail in would be to start what somebody meant to stop.
type holdBack struct {
	global      bool
	machines    []string
	badGlobal   bool
	badMachines bool
	line        int
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
			is, ok := in.boolean(key, p.val)
			h.global, h.badGlobal = is, !ok
		case "machines":
			if isNull(p.val) {
				continue
			}
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
