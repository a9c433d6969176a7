package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mailriver/pkg/simulate"
)

// hook is an endpoint that keeps what it is sent.
type hook struct {
	url string
	got chan delivery
}

type delivery struct {
	header http.Header
	body   []byte
}

func newHook(t *testing.T) hook {
	t.Helper()
	h := hook{got: make(chan delivery, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("webhook: %v", err)
		}
		h.got <- delivery{r.Header.Clone(), body}
	}))
	t.Cleanup(server.Close)
	h.url = server.URL
	return h
}

// checkSignature verifies as the Standard Webhooks specification says, without
// any of our code.
func checkSignature(d delivery, secret []byte) error {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", d.header.Get("Webhook-Id"), d.header.Get("Webhook-Timestamp"), d.body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for have := range strings.FieldsSeq(d.header.Get("Webhook-Signature")) {
		if have == want {
			return nil
		}
	}
	return fmt.Errorf("webhook-signature is %q, want %q in it", d.header.Get("Webhook-Signature"), want)
}

// Three clicks of a person, posted as signed webhooks, make one signed delivery.
// The same three again make none, also after a restart.
func TestLeads_threeClicks(t *testing.T) {
	h := newHook(t)
	secret := []byte("a secret of the receiver of hooks")
	r := newRiver(t, "")
	r.leadscoring(fmt.Sprintf("webhooks: [{ name: crm, url: %q, secrets: [%q], allow_private: true, profiles: [default], stages: [warm] }]",
		h.url, "whsec_"+base64.StdEncoding.EncodeToString(secret)))
	r.start()
	posted := time.Now()
	for n := range 3 {
		r.click(n, "jane@example.com")
	}
	var first delivery
	select {
	case first = <-h.got:
	case <-time.After(patience):
		t.Fatalf("no delivery within %s", patience)
	}
	t.Logf("delivered %s after the first post", time.Since(posted).Round(10*time.Millisecond))
	if err := checkSignature(first, secret); err != nil {
		t.Error(err)
	}
	var message struct {
		Type string `json:"type"`
		Data struct {
			Recipient, Profile, Stage, Direction string
		} `json:"data"`
	}
	if err := json.Unmarshal(first.body, &message); err != nil || message.Data.Recipient != "jane@example.com" ||
		message.Data.Stage != "warm" || message.Data.Direction != "up" {
		t.Errorf("delivered %s, %v, want that jane entered warm", first.body, err)
	}

	if err := r.process.stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	for n := range 3 {
		r.click(n, "jane@example.com")
	}
	// Whatever jane's second three would have set off comes before this one.
	for n := range 3 {
		r.click(n, "marker@example.com")
	}
	eventually(t, "the marker delivered", func() error {
		for {
			select {
			case d := <-h.got:
				if strings.Contains(string(d.body), "marker@example.com") {
					return nil
				}
				t.Errorf("delivered once more: %s", d.body)
			default:
				return errors.New("nothing yet")
			}
		}
	})
	out, status := r.run("lead", "deliveries", "list", "--output", "json")
	if status != 0 || strings.Count(out, `"delivered"`) != 2 {
		t.Errorf("lead deliveries list, status %d: %s, want two that were delivered", status, out)
	}
}

// click posts the nth click of a person, signed.
func (r *river) click(n int, recipient string) {
	r.t.Helper()
	var source simulate.Source
	for _, s := range r.sources() {
		if s.Provider == "mailgun" {
			source = s
		}
	}
	body := mailgunEvent(r.t, source.Keys[0], map[string]any{
		"event": "clicked", "id": fmt.Sprint("click-", n, recipient), "recipient": recipient, "url": fmt.Sprint("https://example.com/", n),
		"timestamp": float64(time.Now().Truncate(time.Hour).Add(-time.Duration(n) * 10 * time.Minute).Unix()),
		"message":   map[string]any{"headers": map[string]any{"message-id": "m1@example.org"}},
		"client-info": map[string]any{
			"client-type": "browser", "client-name": "Firefox", "client-os": "Linux", "device-type": "desktop",
			"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
		},
	})
	resp, err := http.Post(source.Endpoint, "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("POST = %s, want 200", resp.Status)
	}
}

// leadscoring adds to the section of that name.
func (r *river) leadscoring(text string) {
	r.t.Helper()
	r.rewrite(func(config string) string {
		return strings.Replace(config, "leadscoring: { ", "leadscoring: { "+text+", ", 1)
	})
}
