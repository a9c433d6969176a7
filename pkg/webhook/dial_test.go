package webhook

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"mailriver/pkg/config"
)

func TestAllowed(t *testing.T) {
	for _, tt := range []struct {
		addr            string
		public, private bool // without and with allow_private
	}{
		{"8.8.8.8", true, true},
		{"2606:4700::1111", true, true},
		{"10.1.2.3", false, true},
		{"172.31.255.255", false, true},
		{"172.32.0.1", true, true},
		{"192.168.0.1", false, true},
		{"100.64.0.1", false, true},
		{"127.0.0.1", false, true},
		{"::1", false, true},
		{"fd00:ec2::254", false, true},
		{"169.254.169.254", false, false}, // credentials of clouds
		{"fe80::1", false, false},
		{"fe80::1%eth0", false, false},
		{"0.0.0.0", false, false},
		{"0.1.2.3", false, false},
		{"::", false, false},
		{"224.0.0.1", false, false},
		{"255.255.255.255", false, false},
		{"ff02::1", false, false},
		{"192.0.2.1", false, false},
		{"198.18.0.1", false, false},
		{"::ffff:127.0.0.1", false, false}, // mapped
		{"::ffff:8.8.8.8", false, false},
		{"::127.0.0.1", false, false},        // compatible
		{"64:ff9b::7f00:1", false, false},    // NAT64
		{"64:ff9b:1::a00:1", false, false},   // NAT64 of a network
		{"2002:7f00:1::", false, false},      // 6to4
		{"2001:0:7f00:1::", false, false},    // Teredo
		{"2001:db8::1", false, false},        // documentation
		{"fec0::1", false, false},            // site, of old
		{"2001:4860:4860::8888", true, true}, // beside the protocol assignments
	} {
		addr := netip.MustParseAddr(tt.addr)
		if got := allowed(addr, false); got != tt.public {
			t.Errorf("allowed(%s, false) = %t, want %t", addr, got, tt.public)
		}
		if got := allowed(addr, true); got != tt.private {
			t.Errorf("allowed(%s, true) = %t, want %t", addr, got, tt.private)
		}
	}
}

// A proxy would make the connections, and look at no address. That the
// environment names one cannot be tried here: net/http reads it once for each
// process.
func TestNewClient_hasNoProxy(t *testing.T) {
	c, err := NewClient(
		Endpoint{Name: "crm", URL: "https://crm.example.com", Secrets: []config.Secret{config.NewSecret("x")}},
		Deps{Resolve: func(config.Secret) (string, error) { return "", nil }, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if transport, ok := c.http.Transport.(*http.Transport); !ok || transport.Proxy != nil {
		t.Errorf("the transport is %+v, want one without a proxy", c.http.Transport)
	}
}
