package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/kafka"
	"mailriver/pkg/lead"
	"mailriver/pkg/lead/leadavro"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/suppressionavro"
	"mailriver/schemas"
	"mailriver/services/e2e/expect"
)

// books are what the consumers of the canonical topic must have made of it.
type books struct {
	registry     *avro.Registry
	suppressions *suppressionavro.Encoder
	scores       *leadavro.Encoder
	signals      *leadavro.SignalEncoder

	// List and leads are made of the truth: they must not depend on the order in
	// which events came. Signals do, so those are made of the canonical topic.
	list     *expect.List
	leads    *expect.Leads
	ordered  *expect.Leads
	signaled map[string][]byte // by id
}

func (w *world) openBooks(ctx context.Context) (*books, error) {
	cfg := avro.DefaultConfig()
	cfg.URL = w.env.RegistryURL
	registry, err := avro.Open(cfg)
	if err != nil {
		return nil, err
	}
	b := &books{registry: registry, list: expect.NewList(model.DefaultPolicy()), signaled: map[string][]byte{}}
	if b.leads, err = expect.NewLeads(w.profiles); err != nil {
		return nil, err
	}
	if b.ordered, err = expect.NewLeads(w.profiles); err != nil {
		return nil, err
	}
	id, err := suppressionavro.Lookup(ctx, registry, w.topics.Suppressions)
	if err != nil {
		return nil, err
	}
	if b.suppressions, err = suppressionavro.NewEncoder(id); err != nil {
		return nil, err
	}
	if id, err = avro.Lookup(ctx, registry, w.topics.LeadScores, schemas.LeadScoreV1); err != nil {
		return nil, err
	}
	if b.scores, err = leadavro.NewEncoder(id); err != nil {
		return nil, err
	}
	if id, err = avro.Lookup(ctx, registry, w.topics.LeadSignals, schemas.LeadSignalV1); err != nil {
		return nil, err
	}
	b.signals, err = leadavro.NewSignalEncoder(id)
	return b, err
}

// tell enters an event of the truth.
func (b *books) tell(e *event.Event) {
	b.list.Add(e)
	b.leads.Add(e)
}

// follow enters an event of the canonical topic, in the order of its partition.
// All events of a recipient are in one.
func (b *books) follow(e *event.Event) error {
	for _, signal := range b.ordered.Signal(e) {
		value, err := b.signals.Append(nil, &signal)
		if err != nil {
			return err
		}
		b.signaled[signal.ID.String()] = value
	}
	return nil
}

// balanceConsumers compares what the suppression service and the lead scoring
// service have written and say.
func (w *world) balanceConsumers(ctx context.Context, b *books) (err error) {
	r := w.result
	if r.listTopic, r.listKeys, err = newest(ctx, w, w.topics.Suppressions, b.suppressions, b.list.Records()); err != nil {
		return err
	}
	if r.listRows, err = w.number(ctx, "SELECT count() FROM mailriver.suppressions"); err != nil {
		return err
	}
	if r.scores, r.leads, err = newest(ctx, w, w.topics.LeadScores, b.scores, b.leads.Records()); err != nil {
		return err
	}
	if err := w.balanceSignals(ctx, b); err != nil {
		return err
	}
	if err := w.balanceLists(ctx, b); err != nil {
		return err
	}
	return w.balanceLeads(ctx, b)
}

// newest compares the last record of each key of a topic with a value made anew,
// byte for byte.
func newest[V any](ctx context.Context, w *world, topic string, encoder *avro.Encoder[V], want iter.Seq2[string, V]) (a account, keys int, err error) {
	span, err := w.clients.Span(ctx, topic, kafka.Start(), kafka.End())
	if err != nil {
		return a, 0, err
	}
	last := map[string][]byte{}
	if err := w.clients.Read(ctx, span, func(record *kgo.Record) error {
		last[string(record.Key)] = record.Value
		return nil
	}); err != nil {
		return a, 0, err
	}
	a.events = len(last)
	for key, v := range want {
		keys++
		value, err := encoder.Append(nil, &v)
		if err != nil {
			return a, 0, err
		}
		got, found := last[key]
		delete(last, key)
		switch {
		case !found:
			a.missing++
			w.result.complain("%s: %s is missing", topic, key)
		case !bytes.Equal(got, value):
			a.wrong++
			w.result.complain("%s: %s is %x, want %x: %+v", topic, key, got, value, v)
		}
	}
	a.untold = len(last)
	for key := range last {
		w.result.complain("%s: %s was never told", topic, key)
	}
	return a, keys, nil
}

// balanceSignals looks for each signal once, and for each way up before its way
// down, in the topic and at the endpoint.
func (w *world) balanceSignals(ctx context.Context, b *books) error {
	r := w.result
	r.signalsWant = len(b.signaled)
	span, err := w.clients.Span(ctx, w.topics.LeadSignals, kafka.Start(), kafka.End())
	if err != nil {
		return err
	}
	decoder := leadavro.NewSignalDecoder(b.registry)
	seen := map[string]bool{}
	type place struct{ recipient, profile, stage string }
	in := map[place]bool{}
	order := map[string][]string{} // ids by recipient
	if err := w.clients.Read(ctx, span, func(record *kgo.Record) error {
		signal, err := decoder.Decode(ctx, record.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", kafka.Origin(record), err)
		}
		r.signals.events++
		id := signal.ID.String()
		want, known := b.signaled[id]
		switch {
		case seen[id]:
			r.signals.twice++
			r.complain("%s: %+v is there twice", kafka.Origin(record), signal)
		case !known:
			r.signals.untold++
			r.complain("%s: %+v follows from no event", kafka.Origin(record), signal)
		case !bytes.Equal(record.Value, want) || string(record.Key) != signal.Recipient:
			r.signals.wrong++
			r.complain("%s: %+v is another than it should be", kafka.Origin(record), signal)
		}
		if !seen[id] {
			order[signal.Recipient] = append(order[signal.Recipient], id)
		}
		seen[id] = true
		at := place{signal.Recipient, signal.Crossing.Profile, signal.Crossing.Stage}
		if in[at] == signal.Crossing.Up {
			r.outOfTurn++
			r.complain("%s: %+v comes twice in a row", kafka.Origin(record), signal)
		}
		in[at] = signal.Crossing.Up
		return nil
	}); err != nil {
		return err
	}
	for id := range b.signaled {
		if !seen[id] {
			r.signals.missing++
			r.complain("signal %s is missing", id)
		}
	}
	w.balanceHook(order)
	return nil
}

// balanceLists asks each instance of the suppression service about everybody.
func (w *world) balanceLists(ctx context.Context, b *books) error {
	want := b.list.Answers(time.Now())
	addresses := slices.Sorted(maps.Keys(want))
	w.result.asked = len(addresses)
	for _, entries := range want {
		sortEntries(entries)
		w.result.entries += len(entries)
	}
	return w.balanceReplicas(ctx, suppression, &w.result.lists, func(ctx context.Context, api string) ([]string, error) {
		return otherEntries(ctx, api, addresses, want)
	})
}

// balanceLeads asks each instance of the lead scoring service about every lead.
func (w *world) balanceLeads(ctx context.Context, b *books) error {
	return w.balanceReplicas(ctx, leadscoring, &w.result.tellers, func(ctx context.Context, api string) ([]string, error) {
		return otherStandings(ctx, api, b.leads.Standings(time.Now()))
	})
}

// balanceReplicas asks the instances of a service until each says what is true,
// and notes about how many addresses each does not.
func (w *world) balanceReplicas(ctx context.Context, service string, into *[]int, differences func(ctx context.Context, api string) ([]string, error)) error {
	for _, p := range w.of(service) {
		var differ []string
		err := w.await(ctx, p.name, func() (err error) {
			if differ, err = differences(ctx, p.api); err == nil && len(differ) > 0 {
				err = fmt.Errorf("%d addresses are not as the truth says", len(differ))
			}
			return err
		})
		if err != nil && len(differ) == 0 {
			return err // it does not answer
		}
		*into = append(*into, len(differ))
		for _, text := range differ {
			w.result.complain("%s: %s", p.name, text)
		}
	}
	return nil
}

// maxCheck is how many addresses the API checks at once.
const maxCheck = 10_000

// otherEntries are the addresses of which a replica tells other entries.
func otherEntries(ctx context.Context, api string, addresses []string, want map[string][]model.Entry) (list []string, err error) {
	for some := range slices.Chunk(addresses, maxCheck) {
		answers, err := check(ctx, api, some)
		if err != nil {
			return nil, err
		}
		for _, address := range some {
			entries := answers[address].Entries
			sortEntries(entries)
			if !slices.EqualFunc(entries, want[address], sameEntry) {
				list = append(list, fmt.Sprintf("%s: %+v, want %+v", address, entries, want[address]))
			}
		}
	}
	return list, nil
}

type answer struct {
	Entries []model.Entry `json:"entries"`
}

func check(ctx context.Context, api string, addresses []string) (answers map[string]answer, err error) {
	body, err := json.Marshal(map[string]any{"addresses": addresses})
	if err != nil {
		return nil, err
	}
	return answers, ask(ctx, http.MethodPost, api+"/v1/suppressions/check", body, &answers)
}

// standing is where a recipient stands in one profile, as the API tells it.
type standing struct {
	Profile   string    `json:"profile"`
	Score     float64   `json:"score"`
	Stage     string    `json:"stage"`
	UpdatedAt time.Time `json:"updated_at"`
}

// otherStandings are the recipients of whom a replica tells something else.
func otherStandings(ctx context.Context, api string, want map[string][]lead.Standing) (list []string, err error) {
	for _, recipient := range slices.Sorted(maps.Keys(want)) {
		var told struct {
			Profiles []standing `json:"profiles"`
		}
		if err := ask(ctx, http.MethodGet, api+"/v1/leads/"+url.PathEscape(recipient), nil, &told); err != nil {
			return nil, err
		}
		if !slices.EqualFunc(told.Profiles, want[recipient], sameStanding) {
			list = append(list, fmt.Sprintf("%s: %+v, want %+v", recipient, told.Profiles, want[recipient]))
		}
	}
	return list, nil
}

// sameStanding leaves room for what a score fades between the two: the topic is
// compared byte for byte, this says that the replica holds the same event last.
func sameStanding(told standing, want lead.Standing) bool {
	return told.Profile == want.Profile && told.Stage == want.Stage && told.UpdatedAt.Equal(want.At) &&
		math.Abs(told.Score-want.Score) <= math.Abs(want.Score)/1000
}

func ask(ctx context.Context, method, url string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return json.Unmarshal(text, into)
}

func sortEntries(entries []model.Entry) {
	slices.SortFunc(entries, func(a, b model.Entry) int {
		return cmp.Or(cmp.Compare(a.ScopeKind, b.ScopeKind), cmp.Compare(a.ScopeID, b.ScopeID), cmp.Compare(a.Reason, b.Reason))
	})
}

// sameEntry compares all that an answer tells.
func sameEntry(a, b model.Entry) bool {
	if !a.Since.Equal(b.Since) || !a.ExpiresAt.Equal(b.ExpiresAt) {
		return false
	}
	a.Since, a.ExpiresAt, a.Address = b.Since, b.ExpiresAt, b.Address
	return a == b
}
