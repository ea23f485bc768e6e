package runner

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// The door for connections without a token. Anybody can open one and say nothing, so
// room for those that have not said whose they are is apart from the room for those
// that have: silence cannot keep out who speaks.
//
// A wrapper that comes back may have nothing to say before its next heartbeat, which
// goes out every 5 s. 15 s without a frame is disconnected by the protocol, and so long
// has a connection for its first one. Where room is scarce it is shared by address: who
// opens many makes room first, and its own come back, since wrappers dial again. Behind
// one address may be a whole fleet, so among its own nobody goes before a heartbeat was
// due; a newcomer waits instead.

const (
	foreignSilent = 500             // connections that have not said whose they are
	foreignNamed  = 2 * foreignMost // those that have: beside the one that came back may be the one that a cut link left
	refusedEvery  = time.Minute     // so often a refusal is logged
)

// foreigners is what bounds them. adopting is held over the ledger: one is taken over
// at a time. It comes before every other lock; mu comes last.
type foreigners struct {
	adopting sync.Mutex
	since    time.Time // adopted counts from there
	adopted  int

	mu     sync.Mutex
	room   int // foreignSilent, where it is 0
	silent map[*foreigner]bool
	named  int
	crowd  refusals // of those that say nothing
	frames refusals // of first frames
	hint   bool     // how to let them in was logged
}

// refusals are told of now and then: who is refused comes back every few seconds.
type refusals struct {
	told  time.Time
	count int // since then
}

// tell counts one, and returns how many are to be told of now; 0 is none.
func (r *refusals) tell(now time.Time) int {
	r.count++
	if now.Sub(r.told) < refusedEvery {
		return 0
	}
	n := r.count
	r.told, r.count = now, 0
	return n
}

// foreign lets a connection without a token in, if such are wanted.
func (h handler) foreign(c wsx.Claim) (wsx.Session, error) {
	f := &h.ts.foreigners
	wanted := h.ts.o.Adopt != nil && h.ts.o.Adopt()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !wanted {
		if !f.hint {
			f.hint = true
			h.ts.o.Log.Warn("a wrapper without a token was refused: another server started it; to show and record such jobs, write adopt_unknown: true into saltpeter_config", "remote", c.Remote)
		}
		return nil, wsx.ErrUnknownToken
	}
	n := &foreigner{ts: h.ts, remote: c.Remote, from: addressOf(c.Remote), since: time.Now()}
	if !f.makeRoom(n, h.ts.pace.yield) {
		f.refusedSilent(h.ts.o.Log, n)
		return nil, wsx.ErrNoRoom
	}
	if f.silent == nil {
		f.silent = map[*foreigner]bool{}
	}
	f.silent[n] = true
	n.late = time.AfterFunc(h.ts.pace.first, n.isLate)
	return n, nil
}

// addressOf is whom a connection shares its room with: its address, of IPv6 the
// network, since one machine has as many addresses there as it likes.
func addressOf(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	addr := at.Addr().Unmap().WithZone("")
	if network, err := addr.Prefix(64); err == nil && addr.Is6() {
		return network.String()
	}
	return addr.String()
}

// makeRoom reports whether there is room for one more that has said nothing yet, where
// there was none by sending another away. mu is held.
func (f *foreigners) makeRoom(n *foreigner, yield time.Duration) bool {
	room := f.room
	if room == 0 {
		room = foreignSilent
	}
	if len(f.silent) < room {
		return true
	}
	shares, most := map[string]int{}, 0
	for s := range f.silent {
		shares[s.from]++
		most = max(most, shares[s.from])
	}
	unfair := most > shares[n.from]+1
	var out *foreigner
	for s := range f.silent {
		if n.since.Sub(s.since) < yield && !(unfair && shares[s.from] == most) {
			continue
		}
		if out == nil || s.goesBefore(out) {
			out = s
		}
	}
	if out == nil {
		return false
	}
	f.sendAway(out, "another connection needs its room, and it has not said whose it is")
	f.refusedSilent(n.ts.o.Log, out)
	return true
}

// goesBefore: the oldest goes first, and last of all who is about to say something.
func (n *foreigner) goesBefore(other *foreigner) bool {
	if midway := n.midway(); midway != other.midway() {
		return !midway
	}
	return n.since.Before(other.since)
}

func (n *foreigner) midway() bool { return n.conn != nil && n.conn.Midway() }

// sendAway takes one's room away, and closes it. mu is held.
func (f *foreigners) sendAway(n *foreigner, why string) {
	delete(f.silent, n)
	n.late.Stop()
	if conn := n.conn; conn != nil {
		n.ts.spawn(func() { conn.Close(why) }) // a dead peer may hold it up for a while
	}
}

// opened notes the connection of one that was let in, which may have been sent away
// meanwhile.
func (f *foreigners) opened(n *foreigner, c *wsx.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.conn = c
	if !f.silent[n] {
		n.ts.spawn(func() { c.Close("it took too long to open") })
	}
}

// isLate sends away who has not said in time whose it is. The oldest generation tells
// its end in one frame with all its output: on a slow line that takes as long as the
// rest of it does, within reason.
func (n *foreigner) isLate() {
	f := &n.ts.foreigners
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.silent[n] {
		return
	}
	first := n.ts.pace.first
	if n.midway() && time.Since(n.since) < 8*first {
		n.late.Reset(first / 4)
		return
	}
	f.sendAway(n, fmt.Sprintf("it has not said within %s whose it is", first))
	f.refusedSilent(n.ts.o.Log, n)
}

// name moves one that says whose it is to the room for such.
func (f *foreigners) name(n *foreigner) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.silent[n] {
		return errForeign // sent away at the same moment
	}
	if f.named >= foreignNamed {
		return fmt.Errorf("%d connections without a token are open: that is the limit", f.named)
	}
	delete(f.silent, n)
	n.late.Stop()
	n.named = true
	f.named++
	return nil
}

// left gives back the room of one that is gone.
func (f *foreigners) left(n *foreigner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.silent, n)
	n.late.Stop()
	if n.named {
		n.named = false
		f.named--
	}
}

// refusedSilent tells of those that take room and say nothing. mu is held.
func (f *foreigners) refusedSilent(log *slog.Logger, n *foreigner) {
	if count := f.crowd.tell(time.Now()); count > 0 {
		log.Warn("connections without a token were turned away, or closed since they did not say whose they are; wrappers come back by themselves; if it goes on, keep strangers off the machines port, and take adopt_unknown out when the last of another server's jobs has ended",
			"count", count, "last_remote", n.remote, "silent", len(f.silent), "named", f.named)
	}
}

// refusedFrame tells of those whose first frame is not taken.
func (f *foreigners) refusedFrame(log *slog.Logger, remote string, m *wire.Message, why error) {
	f.mu.Lock()
	count := f.frames.tell(time.Now())
	f.mu.Unlock()
	if count > 0 {
		log.Warn("refused a wrapper without a token", "frame_run", clipName(m.JobInstance), "frame_machine", clipName(m.Machine), "remote", remote, "count", count, "err", why)
	}
}
