package receiver

import (
	"net/netip"
	"slices"
	"strings"
)

// sender returns the address that sent a request. X-Forwarded-For is read from
// its end, where the nearest proxy wrote, as long as those who wrote are
// trusted; what lies before the first untrusted address may be invented. When
// the header cannot be read, the sender is the proxy itself, which an
// allow-list will not hold.
func sender(peer string, forwarded []string, trusted []netip.Prefix) netip.Addr {
	from, ok := address(peer)
	if !ok || !contains(trusted, from) {
		return from
	}
	nearest := from
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		if hop == "" {
			continue
		}
		next, ok := address(hop)
		if !ok {
			return nearest
		}
		if from = next; !contains(trusted, from) {
			return from
		}
	}
	return from
}

// address reads an address with or without a port.
func address(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	bare, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return bare.Unmap().WithZone(""), err == nil
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// addressText is empty for a peer without an address, as that of a Unix socket.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
