package config

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// HostName is what this machine is called where nobody configured machines.
func HostName() string { return thisHost().Name }

// HostZone is the time zone of the machine whose files lie below root, as its
// cron goes by it. "" where it cannot be told by name.
func HostZone(root string) string {
	localtime := filepath.Join(root, "etc/localtime")
	if target, err := os.Readlink(localtime); err == nil {
		if _, zone, ok := strings.Cut(target, "zoneinfo/"); ok && knownZone(zone) {
			return zone
		}
	}
	if data, err := os.ReadFile(filepath.Join(root, "etc/timezone")); err == nil {
		if zone := strings.TrimSpace(string(data)); knownZone(zone) {
			return zone
		}
	}
	if _, err := os.Lstat(localtime); os.IsNotExist(err) {
		return "UTC" // what the C library takes then
	}
	return ""
}

func knownZone(name string) bool {
	_, err := loadZone(name)
	return err == nil
}

// thisHost describes the machine that the server runs on, as it is when there is
// no inventory: one machine, reached locally, with the grains that people select
// by most. It is read once and then carried from Set to Set: a name that changed
// under a running server would tear its tasks from their machine.
func thisHost() Machine {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	full := fullName(host)
	short, domain, _ := strings.Cut(full, ".")
	arch := runtime.GOARCH
	if a, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]; ok {
		arch = a
	}
	grains := map[string]any{
		"id": full, "fqdn": full, "host": short, "domain": domain, "localhost": host, "nodename": host,
		"kernel": "Linux", "os": "Linux", "cpuarch": arch, "num_cpus": int64(runtime.NumCPU()),
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		grains["kernelrelease"] = strings.TrimSpace(string(release))
	}
	distribution(grains)
	return Machine{Name: full, Local: true, Enabled: true, Push: true, Grains: grains, Source: "this host"}
}

// fullName asks the hosts file only: a resolver could take seconds, and a
// schedule must not wait for it.
func fullName(host string) string {
	if strings.Contains(host, ".") {
		return host
	}
	f, err := os.Open("/etc/hosts")
	if err != nil {
		return host
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		names := strings.Fields(line)
		for i := 1; i < len(names); i++ {
			if strings.HasPrefix(names[i], host+".") {
				return names[i]
			}
		}
	}
	return host
}

// osNames are what Salt calls the distributions, by the ID of os-release.
var osNames = lazy[map[string][2]string]{make: func() map[string][2]string {
	return map[string][2]string{
		"debian": {"Debian", "Debian"}, "ubuntu": {"Ubuntu", "Debian"}, "raspbian": {"Raspbian", "Debian"},
		"rhel": {"RedHat", "RedHat"}, "centos": {"CentOS", "RedHat"}, "rocky": {"Rocky", "RedHat"},
		"almalinux": {"AlmaLinux", "RedHat"}, "fedora": {"Fedora", "RedHat"}, "amzn": {"Amazon", "RedHat"},
		"sles": {"SUSE", "Suse"}, "opensuse-leap": {"SUSE", "Suse"}, "arch": {"Arch", "Arch"}, "alpine": {"Alpine", "Alpine"},
	}
}}

func distribution(grains map[string]any) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return
	}
	release := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		release[key] = strings.Trim(v, `"'`)
	}
	if n, ok := osNames.get()[release["ID"]]; ok {
		grains["os"], grains["os_family"] = n[0], n[1]
	} else if release["NAME"] != "" {
		grains["os"] = release["NAME"]
	}
	if v := release["VERSION_ID"]; v != "" {
		grains["osrelease"] = v
		grains["osmajorrelease"], _, _ = strings.Cut(v, ".")
	}
	if v := release["VERSION_CODENAME"]; v != "" {
		grains["oscodename"] = v
	}
}

// withHostGrains gives a machine of the inventory that is this host its grains;
// those that are written win.
func withHostGrains(m Machine, host Machine) Machine {
	grains := maps.Clone(host.Grains)
	grains["id"] = m.Name
	maps.Copy(grains, m.Grains)
	m.Grains = grains
	return m
}
