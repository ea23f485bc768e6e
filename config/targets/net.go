package targets

import (
	"fmt"
	"net/netip"
	"strings"
)

// network matches the addresses in the grains ipv4 and ipv6.
type network struct{ netip.Prefix }

func parseNet(text string) (matcher, *Error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return network{netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return nil, &Error{Pos: 1, Text: fmt.Sprintf("%q is not an address or a network", text), Hint: "write one such as 10.0.0.5, 10.0.0.0/8 or 2001:db8::/32"}
	}
	if masked := prefix.Masked(); masked != prefix {
		return nil, &Error{Pos: 1, Text: fmt.Sprintf("%q is an address inside a network", text), Hint: fmt.Sprintf("write %s for the network, or %s", masked, prefix.Addr())}
	}
	return network{prefix}, nil
}

func (n network) match(m Machine) bool {
	value := m.Grains["ipv4"]
	if n.Addr().Is6() {
		value = m.Grains["ipv6"]
	}
	members, ok := asList(value)
	if !ok {
		members = []any{value}
	}
	for _, member := range members {
		text, _ := member.(string)
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err == nil && n.Contains(addr.WithZone("")) {
			return true
		}
	}
	return false
}
