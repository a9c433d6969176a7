package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crm is an endpoint that stores what it is sent and drops what it has, by the id
// of the message. Until the process is killed it answers as a test says.
type crm struct {
	refuse bool             // stores nothing until then
	answer http.HandlerFunc // until then; nil never answers

	mu      sync.Mutex
	killed  bool
	asked   []delivery
	stored  []delivery
	dropped int
}

func (c *crm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // not a message
	}
	d := delivery{r.Header.Clone(), body}
	c.mu.Lock()
	c.asked = append(c.asked, d)
	killed := c.killed
	switch {
	case !killed && c.refuse:
	case slices.ContainsFunc(c.stored, func(s delivery) bool { return s.id() == d.id() }):
		c.dropped++
	default:
		c.stored = append(c.stored, d)
	}
	c.mu.Unlock()
	switch {
	case killed:
	case c.answer != nil:
		c.answer(w, r)
	default:
		<-r.Context().Done() // the sender is gone
	}
}

func (d delivery) id() string { return d.header.Get("Webhook-Id") }

// count is how many requests came so far.
func (c *crm) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked)
}

// noted is a delivery as the command line tells it.
type noted struct {
	ID        string `json:"delivery"`
	State     string `json:"state"`
	Recipient string `json:"recipient"`
	Attempts  int    `json:"attempts"`
}

// ledger is what Mailriver says of the deliveries to a webhook, by recipient.
func (r *river) ledger(webhook string) map[string]noted {
	r.t.Helper()
	out, status := r.run("lead", "deliveries", "list", "--webhook", webhook, "--output", "json")
	var list []noted
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		r.t.Fatalf("lead deliveries list, status %d: %v in %s", status, err, out)
	}
	by := map[string]noted{}
	for _, n := range list {
		by[n.Recipient] = n
	}
	if len(by) != len(list) {
		r.t.Errorf("%s has %d deliveries about %d recipients, want one about each: %s", webhook, len(list), len(by), out)
	}
	return by
}

func attempts(ledger map[string]noted) (sum int) {
	for _, n := range ledger {
		sum += n.Attempts
	}
	return sum
}

// freeze stops a process where it stands, and waits until all of it does.
func (p *process) freeze() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "stopped", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid)) // proc(5)
		if err != nil || len(threads) == 0 {
			p.t.Skipf("this system does not say whether a process is stopped: %v", err)
		}
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// Behind the name, which may hold anything, comes the state.
			if _, rest, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(rest, "T") {
				return fmt.Errorf("%s: %s", path, stat)
			}
		}
		return nil
	})
}

// Lead scoring is killed with deliveries in every state but done: one was not
// answered, the answer to one was sent and never read, some wait for another
// attempt, and one endpoint is left alone by its breaker. The next process
// delivers all of them, under the ids that they had. Turns red where what is to be
// done is kept in memory, where an attempt is noted before its answer, and where
// an id is that of an attempt.
func TestLeads_killedInHand(t *testing.T) {
	frozen, answered := make(chan struct{}), make(chan struct{}, 1)
	tests := []struct {
		name  string // also of the endpoint
		crm   crm
		asked int  // requests before the kill
		blind int  // of them, those that nobody could take note of
		open  bool // the breaker is, at the kill
	}{
		{name: "before_the_answer", asked: 1, blind: 1},
		{
			name: "answer_not_read", asked: 1, blind: 1,
			crm: crm{answer: func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-frozen:
				case <-r.Context().Done():
					return
				}
				w.Header().Set("Content-Length", "0")
				w.WriteHeader(http.StatusOK)
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Errorf("answer: %v", err)
				}
				answered <- struct{}{}
			}},
		},
		{
			name: "between_attempts", asked: 3, // 4xx: no failure to the breaker
			crm: crm{refuse: true, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnprocessableEntity) }},
		},
		{
			name: "breaker_open", asked: 2, open: true,
			crm: crm{refuse: true, answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		},
	}
	recipients := []string{"ann@example.com", "bob@example.com", "eve@example.com"}
	secret := []byte("a secret of the receiver of hooks")
	e := newEstuary(t, "")
	var webhooks []string
	for i := range tests {
		c := &tests[i].crm
		server := httptest.NewServer(c)
		t.Cleanup(server.Close)
		webhooks = append(webhooks, fmt.Sprintf("{ name: %s, url: %q, secrets: [%q], allow_private: true, profiles: [default], stages: [warm], timeout: 25s }",
			tests[i].name, server.URL, "whsec_"+base64.StdEncoding.EncodeToString(secret)))
	}
	// A breaker that opens stays so for half an hour at least.
	e.leadscoring("webhooks: [" + strings.Join(webhooks, ", ") + "], " +
		"deliveries: { in_flight: 1, retry_min: 16s, break_after: 2, break_min: 1h, break_max: 1h }")
	e.services["leadscoring"] = &service{name: "leadscoring", admin: freePorts(t, 1)[0]}
	e.launch("leadscoring")
	e.awaitService("leadscoring")
	for _, recipient := range recipients {
		for n := range 3 {
			e.click(n, recipient)
		}
	}
	for i := range tests {
		tt := &tests[i]
		eventually(t, tt.name, func() error {
			e.alive()
			if asked := tt.crm.count(); asked < tt.asked {
				return fmt.Errorf("asked %d times, want %d", asked, tt.asked)
			}
			ledger := e.ledger(tt.name)
			if len(ledger) != len(recipients) || attempts(ledger) != tt.asked-tt.blind {
				return fmt.Errorf("deliveries are %v, want %d with %d attempts", ledger, len(recipients), tt.asked-tt.blind)
			}
			if !tt.open {
				return nil
			}
			return e.services["leadscoring"].broken(tt.name)
		})
	}

	scoring := e.services["leadscoring"].process
	scoring.freeze()
	close(frozen)
	select {
	case <-answered:
	case <-time.After(patience):
		t.Fatal("the endpoint did not answer")
	}
	scoring.kill()
	before := map[string]map[string]noted{}
	for i := range tests {
		tt := &tests[i]
		before[tt.name] = e.ledger(tt.name)
		if asked := tt.crm.count(); asked != tt.asked || attempts(before[tt.name]) != tt.asked-tt.blind {
			t.Errorf("%s: asked %d times of which %d are noted, want %d of which %d are not",
				tt.name, asked, attempts(before[tt.name]), tt.asked, tt.blind)
		}
		for _, n := range before[tt.name] {
			if n.State != "pending" {
				t.Errorf("%s: %+v, want pending", tt.name, n)
			}
		}
		tt.crm.mu.Lock()
		tt.crm.killed = true
		tt.crm.mu.Unlock()
	}

	e.launch("leadscoring")
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			var after map[string]noted
			eventually(t, "delivered", func() error {
				e.alive()
				after = e.ledger(tt.name)
				for _, n := range after {
					if n.State != "delivered" {
						return fmt.Errorf("%+v", n)
					}
				}
				return nil
			})
			for _, recipient := range recipients {
				was, is := before[tt.name][recipient], after[recipient]
				if is.ID != was.ID || is.Attempts != was.Attempts+1 {
					t.Errorf("%s: the delivery was %+v and is %+v, want it after one more attempt", recipient, was, is)
				}
			}
			tt.crm.check(t, tt.name, after, secret, tt.asked, tt.blind)
		})
	}
	if signals := e.all(e.topics.LeadSignals); len(signals) != len(recipients) {
		t.Errorf("there are %d signals, want one about each of %v", len(signals), recipients)
	}
}

// check looks at what the endpoint was sent, and at what it stored.
func (c *crm) check(t *testing.T, name string, ledger map[string]noted, secret []byte, asked, blind int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if want := asked + len(ledger); len(c.asked) != want {
		t.Errorf("the endpoint was asked %d times, want %d: once about each after the kill", len(c.asked), want)
	}
	if c.dropped != blind {
		t.Errorf("the endpoint dropped %d that it had, want %d: as many as nobody took note of", c.dropped, blind)
	}
	bodies := map[string]string{}
	for _, d := range c.asked {
		if err := checkSignature(d, secret); err != nil {
			t.Error(err)
		}
		if first, again := bodies[d.id()]; again && first != string(d.body) {
			t.Errorf("message %s was %s and is %s", d.id(), first, d.body)
		}
		bodies[d.id()] = string(d.body)
	}
	var got, want []string
	for _, d := range c.stored {
		var message struct{ Data struct{ Recipient string } }
		if err := json.Unmarshal(d.body, &message); err != nil {
			t.Error(err)
		}
		got = append(got, message.Data.Recipient+" "+d.id()+":"+name)
	}
	for recipient, n := range ledger {
		want = append(want, recipient+" "+n.ID)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the endpoint has %v, want each signal once: %v", got, want)
	}
}

// broken returns nil when the breaker of a webhook is open.
func (s *service) broken(webhook string) error {
	resp, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "mailriver_leadscoring_webhooks_breaker{") && strings.Contains(line, fmt.Sprintf("%q", webhook)) {
			if strings.HasSuffix(strings.TrimSpace(line), " 2") {
				return nil
			}
			return errors.New(line)
		}
	}
	return errors.New("no metric of the breaker")
}
