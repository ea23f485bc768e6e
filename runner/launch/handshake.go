package launch

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"saltpeter/wsx/wire"
)

// maxHandshake bounds what is read before the identity line: a login shell may
// print a page, a program that is no wrapper may print without end.
const maxHandshake = 64 << 10

// errNoIdentity: standard output ended, or went on too long, without an identity.
var errNoIdentity = errors.New("no identity line came")

// readHandshake reads what a wrapper of ours prints first: its version, then its
// identity as a line of JSON. Lines before the version are a login shell's.
func readHandshake(r io.Reader) (version string, id *wire.Identity, err error) {
	b := bufio.NewReaderSize(io.LimitReader(r, maxHandshake), 4096)
	greeted := false
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			// A line without its end may be half an identity: it does not count.
			if errors.Is(err, io.EOF) {
				err = errNoIdentity
			}
			return version, nil, err
		}
		line = strings.TrimRight(line, "\r\n")
		switch {
		case !greeted:
			if said, ok := strings.CutPrefix(line, wire.FirstLine); ok {
				version, greeted = said, true
			}
		case strings.HasPrefix(line, "{"):
			id, err := parseIdentity(line)
			return version, id, err
		}
	}
}

func parseIdentity(line string) (*wire.Identity, error) {
	var id wire.Identity
	if err := json.Unmarshal([]byte(line), &id); err != nil {
		return nil, fmt.Errorf("cannot read the identity line: %w", err)
	}
	// Without these three nothing may ever be signalled by this identity.
	if id.PID <= 1 || id.StartTicks == 0 || id.BootID == "" {
		return nil, fmt.Errorf("cannot use the identity line: pid %d, start_ticks %d, boot_id %q", id.PID, id.StartTicks, id.BootID)
	}
	return &id, nil
}
