package wsx

import (
	"strings"
	"testing"

	"saltpeter/wsx/wire"
)

// lending is a spool that has everything at hand.
type lending struct {
	*spool
	lent int
}

func (s *lending) Lend(offset int64, most int) ([]byte, byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := 0
	for i < len(s.runs) && s.runs[i].end <= offset {
		i++
	}
	if i == len(s.runs) {
		return nil, 0
	}
	s.lent++
	return s.data[offset:min(s.runs[i].end, offset+int64(most))], s.runs[i].stream
}

func (s *lending) Return() {}

// What a spool has at hand goes out as it lies there: by the socket past gorilla's
// buffer, with pings and messages in between, and by TCP and TLS.
func TestLentOutput(t *testing.T) {
	for name, way := range map[string]struct{ secure, socket bool }{
		"socket": {false, true}, "plain": {false, false}, "tls": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			p := open(t, d, nil)
			dial := p.dial(way.secure)
			if way.socket {
				dial.Socket = p.socketIn(t, t.TempDir(), 0)
			}
			var out *lending
			o := link(t, dial, func(opts *LinkOptions, _ *Link) {
				if out == nil {
					out = &lending{spool: opts.Output.(*spool)}
				}
				opts.Output = out
			})
			for i := range 200 {
				size := []int{1, 100, wholeLeast - 1, wholeLeast, wholeLeast + 1, frameMax, 2*frameMax + 7}[i%7]
				out.add([]byte{wire.Stdout, wire.Stderr}[i%2], strings.Repeat(string(rune('a'+i%26)), size))
				o.l.Send(&wire.Message{Type: wire.TypeHeartbeat})
				o.l.mu.Lock()
				n := o.l.line
				o.l.mu.Unlock()
				if n != nil {
					if err := n.c.Ping(); err != nil {
						t.Fatal(err)
					}
				}
			}
			o.allAcked(t)
			if d.got() != out.text() {
				t.Error("other bytes arrived than were sent")
			}
			if _, downs := o.count(); downs > 0 || out.lent == 0 {
				t.Errorf("%d interruptions, %d pieces lent", downs, out.lent)
			}
		})
	}
}
