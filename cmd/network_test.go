package cmd

import (
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/network are sessions with machines beyond this one: the
// server is 10.77.0.1 in a network of its own, its machines are 10.77.0.2 and so on,
// each with its own sshd, files and users, and each can be cut off. They share the
// processes of this machine, so nothing is ever signalled but what a script has
// started. Beside the commands of the other scripts there are
//
//	machines NAME…               makes the network; $WORK in jobs/*.yaml is replaced
//	firewall HOST in|out RULE…   adds a rule, as nft takes it; HOST is server or a machine
//	heal HOST                    takes its rules away
//	unplug HOST, plug HOST       its cable
//	sshd HOST stop|start|drop    its sshd; drop ends the connections that are there
//	slow PORT HOST DELAY         opens a port of the server's that leads to that sshd, late
//	on HOST CMD…                 runs a command there
//	reboot HOST                  gives it a new boot id, as if it had started anew
//	bystander HOST               starts a process there that nobody may touch
//	untouched                    all bystanders live
//	strike HOST SIG JOB          signals the wrapper of the job's newest run there
//	lives HOST TEXT, gone HOST TEXT   waits until a process with TEXT in its arguments is (not) there
//	exits CODE CMD…              runs a command that has to end with that code
func TestNetworkScripts(t *testing.T) {
	testscript.RunT(networkT{t}, testscript.Params{
		Dir:                 "../testdata/network",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Values[networkKey{}] = &network{t: env.T().(networkT).T}
			return setUpScript(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":      scriptServe,
			"crash":      func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).end(ts, syscall.SIGKILL) },
			"halt":       func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).end(ts, syscall.SIGTERM) },
			"eventually": scriptEventually,

			"machines": networkMachines, "firewall": networkFirewall, "heal": networkHeal,
			"plug": networkCable(true), "unplug": networkCable(false), "sshd": networkSSHD, "slow": networkSlow,
			"on": networkOn, "reboot": networkReboot, "bystander": networkBystander, "untouched": networkUntouched,
			"strike": networkStrike, "lives": networkProcess(true), "gone": networkProcess(false), "exits": networkExits,
		},
	})
}

// networkT hands the scripts' own tests to those who need a *testing.T.
type networkT struct{ *testing.T }

func (t networkT) Verbose() bool { return testing.Verbose() }

func (t networkT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(networkT{t}) })
}
