package cmd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/sshx"
)

// openMachinesPort opens the port that wrappers dial, and says what its URL is.
func (d *daemon) openMachinesPort() (net.Listener, func(m launch.Machine, tls, pinned bool) string, error) {
	port := d.o.machinesPort
	remembered := filepath.Join(d.stateDir, "machines_port")
	if port == 0 {
		// Wrappers of an earlier server go on dialling the port that they know.
		if data, err := os.ReadFile(remembered); err == nil {
			port, _ = strconv.Atoi(strings.TrimSpace(string(data)))
		}
	}
	bind := machinesBind(d.set)
	ln, err := net.Listen("tcp", net.JoinHostPort(bind, strconv.Itoa(port)))
	if err != nil {
		return nil, nil, &failure{code: exitFailed, stable: "port_in_use", text: fmt.Sprintf("cannot open the machines port: %v", err),
			hint: "another server may use it: see `ss -ltnp`; set machines_ws_port in saltpeter_config, or --machines-port"}
	}
	d.closeLater(func() { ln.Close() })
	if d.o.machinesPort == 0 {
		port = ln.Addr().(*net.TCPAddr).Port
		if err := os.WriteFile(remembered, []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
			return nil, nil, failed(fmt.Errorf("cannot keep the machines port: %w", err), "")
		}
	}
	host := d.set.Settings.ServerHost
	if host == "" {
		host, _ = os.Hostname()
	}
	return ln, func(m launch.Machine, tls, pinned bool) string {
		scheme, to, port := "ws", host, port
		if tls {
			scheme = "wss"
		}
		switch {
		case m.Transport == "local":
			to = "127.0.0.1"
			if ip := net.ParseIP(bind); ip != nil && !ip.IsUnspecified() {
				to = bind
			}
		case m.Tunnel && d.tunnels != nil:
			to, port = "127.0.0.1", d.tunnels.Port(m)
			if !pinned {
				scheme = "ws" // no certificate is for that name, and SSH seals it on the way
			}
		case m.ServerHost != "":
			to = m.ServerHost
		}
		return scheme + "://" + net.JoinHostPort(to, strconv.Itoa(port))
	}, nil
}

// machinesBind is loopback while no machine has to dial from elsewhere, so that
// nothing is open to a network that nobody needs. A machine with a tunnel dials
// itself.
func machinesBind(set *config.Set) string {
	if b := set.Settings.MachinesBind; b != "" {
		return b
	}
	if set.Settings.AdoptUnknown {
		return "0.0.0.0" // what another server started may be anywhere
	}
	for _, m := range set.Machines {
		if !m.Local && !m.Tunnel {
			return "0.0.0.0"
		}
	}
	return "127.0.0.1"
}

// warnOfBind says so where the first machine that has to dial from elsewhere comes
// after the port was opened for this machine alone.
func (d *daemon) warnOfBind(set *config.Set) {
	if was, now := machinesBind(d.set), machinesBind(set); was != now && was == "127.0.0.1" {
		d.log.Warn("the machines port listens on 127.0.0.1 only, since every machine was local at start; restart the server, so that the new ones can dial it", "would_be", now)
	}
}

// openTransports opens the roads to machines. Where ssh cannot be set up, jobs on
// this machine go on.
func (d *daemon) openTransports(machines net.Addr) map[string]launch.Transport {
	local := launch.NewLocal(launch.LocalOptions{})
	d.closeLater(func() { local.Close() })
	roads := map[string]launch.Transport{"local": local}
	s := d.set.Settings.SSH
	client, err := sshx.New(sshx.Options{
		User: s.User, Port: s.Port, IdentityFiles: s.IdentityFiles, KnownHosts: s.KnownHosts, Config: s.Config,
		Concurrency: s.Concurrency, Log: d.log,
	})
	if err != nil {
		d.log.Error("cannot set up ssh: what runs over it fails until ssh: in saltpeter_config is mended and the server restarted", "err", err)
		return roads
	}
	d.closeLater(func() { client.Close() })
	away := launch.NewSSH(launch.SSHOptions{Client: client, Builds: []string{filepath.Join(d.stateDir, "builds")}, Log: d.log})
	d.closeLater(func() { away.Close() })
	roads["ssh"] = away
	near := machines.(*net.TCPAddr)
	host := near.IP.String()
	if near.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	d.tunnels = launch.NewTunnels(launch.TunnelOptions{
		Client: client, File: filepath.Join(d.stateDir, "tunnels"), Log: d.log,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(near.Port)))
		},
	})
	return roads
}

// upgrade brings machines up to this version after the program was replaced. Which
// build they were brought to is remembered, so that not every start asks them all.
func (d *daemon) upgrade(ctx context.Context, road launch.Transport) {
	up, ok := road.(launch.Upgrader)
	if !ok {
		return
	}
	remembered := filepath.Join(d.stateDir, "wrapper_build")
	name, err := up.Build()
	if err != nil {
		d.log.Error("cannot tell what to put on machines", "err", err)
		return
	}
	if was, err := os.ReadFile(remembered); err == nil && strings.TrimSpace(string(was)) == name {
		return
	}
	d.runner.Upgrade(ctx)
	if ctx.Err() != nil {
		return // the next start goes on with it
	}
	if err := os.WriteFile(remembered, []byte(name+"\n"), 0o600); err != nil {
		d.log.Warn("cannot remember what was put on machines; the next start asks them again", "err", err)
	}
}
