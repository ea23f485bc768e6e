package config

import (
	"reflect"
	"slices"
	"testing"
)

// Each part of what is held back is told by its own line.
func TestMaintenancePlaces(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "{}\n")
	write(t, dir, "b.yaml", "\nsaltpeter_maintenance:\n  machines:\n  - m\n  - n\n  global: true\n")
	write(t, dir, "c.yaml", "saltpeter_maintenance: {global: false, machines: [m]}\n")
	set := load(t, dir, nil)
	want := []Place{{File: "b.yaml", Line: 6}, {Machine: "m", File: "b.yaml", Line: 3}, {Machine: "n", File: "b.yaml", Line: 3}, {Machine: "m", File: "c.yaml", Line: 1}}
	if !reflect.DeepEqual(set.Maintenance.Places, want) {
		t.Errorf("%+v", set.Maintenance.Places)
	}
	// A broken file goes on holding back, where it did.
	write(t, dir, "b.yaml", "[")
	if set = load(t, dir, set); !reflect.DeepEqual(set.Maintenance.Places, want) {
		t.Errorf("%+v", set.Maintenance.Places)
	}
}

func TestHolding(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "saltpeter_machines: {m: {local: true}, n: {local: true}}\nsaltpeter_maintenance: {machines: [m]}\n"+
		"one: {command: 'true', schedule: '@yearly', targets: m}\nboth: {command: 'true', schedule: '@yearly', targets: '*'}\n")
	set := load(t, dir, nil)
	if set.Holding(false, nil) != set {
		t.Error("nothing more is another set")
	}
	if !set.Resting(set.Jobs["one"]) || set.Resting(set.Jobs["both"]) {
		t.Error("by the files")
	}
	more := set.Holding(false, []string{"n", "m"})
	if !slices.Equal(more.Maintenance.Machines, []string{"m", "n"}) || !more.Resting(more.Jobs["both"]) || more.Serial == set.Serial || len(set.Maintenance.Machines) != 1 {
		t.Errorf("%+v", more.Maintenance)
	}
	all := set.Holding(true, nil)
	if !all.Maintenance.Global || !all.Resting(all.Jobs["both"]) || all.Serial == more.Serial || all.Serial != set.Holding(true, nil).Serial {
		t.Errorf("%+v", all.Maintenance)
	}
}
