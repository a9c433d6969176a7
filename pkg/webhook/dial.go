package webhook

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// errAddress is why a connection is refused before it is made.
var errAddress = errors.New("address is not allowed")

// private are the networks that allow_private opens.
var private = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
	"100.64.0.0/10",          // shared by the customers of a carrier, RFC 6598
	"127.0.0.0/8", "::1/128", // this machine
	"fc00::/7", // unique local, RFC 4193
)

// special are networks within the public space that lead elsewhere or nowhere
// (IANA's registries of special-purpose addresses).
var special = prefixes(
	"0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23",     // protocol assignments, Teredo among them
	"2001:db8::/32", // documentation
	"2002::/16",     // 6to4, which holds an IPv4 address
	"3fff::/20",     // documentation
)

// global is all that is routed of IPv6. What is outside of it needs no list:
// mapped and translated IPv4 (::ffff:0:0/96, 64:ff9b::/96), links, multicast.
var global = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func within(list []netip.Prefix, addr netip.Addr) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// allowed reports whether an address may be spoken to.
func allowed(addr netip.Addr, allowPrivate bool) bool {
	switch {
	case addr.Zone() != "" || addr.Is4In6():
		return false
	case within(private, addr):
		return allowPrivate
	case within(special, addr):
		return false
	}
	return addr.Is4() || global.Contains(addr)
}

// dialer refuses addresses when the connection is made, after names are
// resolved: a name that resolves to something else the second time gets around a
// check that is made before.
func dialer(allowPrivate bool) *net.Dialer {
	return &net.Dialer{
		Timeout:   10 * time.Second,
		KeepAlive: 30 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %q cannot be read", errAddress, address)
			}
			if !allowed(at.Addr(), allowPrivate) {
				return fmt.Errorf("%w: %s is private or special", errAddress, at.Addr())
			}
			return nil
		},
	}
}
