package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mailriver/pkg/simulate"
)

// result is what a run has found.
type result struct {
	summary  simulate.Summary
	posting  time.Duration // with the disruptions
	duration time.Duration // until all was drained
	elapsed  time.Duration // until the books were balanced
	kinds    map[string]*tally
	alone    int // times that a service ended by itself
	ignored  int // inserts that ClickHouse had seen before
	again    int // pending ranges that were delivered again by a new owner
	aborted  int // transactions that were given up in order
	drained  bool

	ledger, lost, raw, dead int
	truth                   int
	canonical, table        account
	count, distinct, rollup int
	rollupGroups            int // groups that do not agree
	listTopic, scores       account
	listKeys, leads         int // what these two must have
	listRows                int // in ClickHouse
	signals                 account
	signalsWant, outOfTurn  int
	hooked                  account
	hookedAgain, hookOrder  int
	hookRefused, hookLost   int   // by the endpoint, on purpose
	asked, entries          int   // addresses, and their entries in force
	lists, tellers          []int // addresses of which each replica tells something else
	audit                   string
	clickhouse              string
	complaints              []string
	complaintsLeft          int
}

// tally counts the disruptions of one kind.
type tally struct {
	done, hit int
	aimed     bool
}

const maxComplaints = 30

func (r *result) complain(format string, args ...any) {
	if len(r.complaints) == maxComplaints {
		r.complaintsLeft++
		return
	}
	r.complaints = append(r.complaints, fmt.Sprintf(format, args...))
}

// balanced reports whether every promise was kept.
func (r *result) balanced() bool {
	return r != nil && r.drained && r.lost == 0 && r.dead == 0 && r.summary.GivenUp == 0 && r.summary.Slipped == 0 &&
		r.canonical.balanced(r.truth) && r.table.balanced(r.truth) &&
		r.count == r.truth && r.distinct == r.truth && r.rollup == r.truth && r.rollupGroups == 0 &&
		r.listTopic.balanced(r.listKeys) && r.listRows == r.listKeys && r.scores.balanced(r.leads) &&
		r.signals.balanced(r.signalsWant) && r.outOfTurn == 0 &&
		r.hooked.balanced(r.signalsWant) && r.hookOrder == 0 &&
		agree(r.lists) && agree(r.tellers) &&
		!strings.HasPrefix(r.audit, "does not")
}

// agree reports whether all replicas were asked and tell what is true.
func agree(differences []int) bool {
	return len(differences) > 1 && !slices.ContainsFunc(differences, func(n int) bool { return n != 0 })
}

// markdown renders the report. It names no path and no host: it is published.
func (r *result) markdown(o options, m machine) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Chaos report\n")
	line("Written by `make chaos`. What is tested, and how, is said in `services/e2e/chaos`.\n")
	verdict := "**Balanced**: nothing lost, nothing twice."
	if !r.balanced() {
		verdict = "**Not balanced.**"
	}
	line("%s\n", verdict)
	line("| | |\n|---|---|")
	line("| events | %d distinct, in %d requests that were accepted (copies included) |", r.truth, r.summary.Accepted)
	done := 0
	for _, t := range r.kinds {
		done += t.done
	}
	line("| disruptions | %d |", done)
	line("| seed | %d |", o.seed)
	brokers := fmt.Sprintf("%d, heap %s each", o.brokers, o.heap)
	kafkaVersion := jarVersion(o.jars)
	if o.external != nil {
		brokers, kafkaVersion = fmt.Sprintf("%d, not disrupted", len(o.external)), "of KAFKA_BROKERS"
	}
	line("| Kafka | %s, brokers: %s |", kafkaVersion, brokers)
	line("| ClickHouse | %s (libchdb), one node |", r.clickhouse)
	line("| services | 1 receiver; 2 each of normalizer, loader, suppression and leadscoring; each a process |")
	line("| machine | %d cores, %s, %s, %s; everything above and the load ran on it |", m.cores, m.memory, m.kernel, m.gover)
	line("| time | %s for posting, %s until all was drained, %s with the books |",
		r.posting.Round(time.Second), r.duration.Round(time.Second), r.elapsed.Round(time.Second))
	line("| repeat | `make chaos EVENTS=%d KILLS=%d SEED=%d BROKERS=%d HEAP=%s` |\n", o.events, o.kills, o.seed, o.brokers, o.heap)
	line("The seed decides the traffic, the disruptions, their order, places and lengths. What a kill meets inside a")
	line("process is up to the machine.\n")

	line("## Books\n")
	line("| | got | want |\n|---|---:|---:|")
	line("| requests answered 200, distinct bodies | %d | |", r.ledger)
	line("| of them not in the raw topic | %d | 0 |", r.lost)
	line("| records in the raw topic | %d | at least %d |", r.raw, r.ledger)
	line("| genuine requests given up by the sender | %d | 0 |", r.summary.GivenUp)
	line("| forgeries accepted, of %d | %d | 0 |", r.summary.Refused+r.summary.Slipped, r.summary.Slipped)
	line("| dead letters | %d | 0 |", r.dead)
	for _, place := range []struct {
		name string
		account
	}{{"canonical topic, read committed", r.canonical}, {"ClickHouse", r.table}} {
		line("| %s: events | %d | %d |", place.name, place.events, r.truth)
		line("| twice, missing, never told, with a wrong field | %d, %d, %d, %d | 0, 0, 0, 0 |", place.twice, place.missing, place.untold, place.wrong)
	}
	line("| `count()` of events, without FINAL | %d | %d |", r.count, r.truth)
	line("| `uniqExact(event_id)` | %d | %d |", r.distinct, r.truth)
	line("| `sum(events)` of events_hourly | %d | %d |", r.rollup, r.truth)
	line("| groups in which events_hourly and events differ | %d | 0 |", r.rollupGroups)
	for _, place := range []struct {
		name string
		want int
		account
	}{
		{"suppressions topic, last records: addresses and scopes", r.listKeys, r.listTopic},
		{"lead scores topic, last records: recipients", r.leads, r.scores},
	} {
		line("| %s | %d | %d |", place.name, place.events, place.want)
		line("| missing, without cause, with other bytes than when made anew | %d, %d, %d | 0, 0, 0 |", place.missing, place.untold, place.wrong)
	}
	line("| lead signals topic, read committed: signals | %d | %d |", r.signals.events, r.signalsWant)
	line("| twice, missing, without cause, with other bytes than when made anew | %d, %d, %d, %d | 0, 0, 0, 0 |",
		r.signals.twice, r.signals.missing, r.signals.untold, r.signals.wrong)
	line("| signals of one stage that go up twice in a row, or down | %d | 0 |", r.outOfTurn)
	line("| signals at a webhook, each counted once | %d | %d |", r.hooked.events, r.signalsWant)
	line("| missing, without cause | %d, %d | 0, 0 |", r.hooked.missing, r.hooked.untold)
	line("| recipients whose signals came there in another order | %d | 0 |", r.hookOrder)
	for i, differ := range r.lists {
		line("| API of suppression %d: of %d addresses with %d entries, those told otherwise | %d | 0 |", i+1, r.asked, r.entries, differ)
	}
	for i, differ := range r.tellers {
		line("| API of leadscoring %d: of %d recipients, those told otherwise | %d | 0 |", i+1, r.leads, differ)
	}
	line("| ClickHouse: rows of suppressions | %d | %d |", r.listRows, r.listKeys)
	audit := r.audit
	if audit == "" {
		audit = "not in this build"
	}
	line("| `mailriver audit` | %s | agrees |\n", audit)

	line("## Disruptions\n")
	line("| kind | times | moment met |\n|---|---:|---:|")
	for _, kind := range slices.Sorted(maps.Keys(r.kinds)) {
		met, t := "", r.kinds[kind]
		if t.aimed {
			met = fmt.Sprint(t.hit)
		}
		line("| %s | %d | %s |", kind, t.done, met)
	}
	line("\nThe aimed kinds watch Kafka from outside. Between produce and end of transaction: when the topic that a service")
	line("writes holds records behind its last stable offset, both of its processes are killed, and the moment is met")
	line("when that is so still afterwards. Between insert and commit: when the committed offset announces a pending")
	line("range, all brokers are stopped (SIGSTOP), so that the insert goes on and its commit cannot; when rows have come")
	line("in, both loaders are killed and the brokers go on. With a range pending: ClickHouse is killed up to 60 ms after")
	line("that. One that does not find its moment within %s strikes without it. Without its local copy: the moment is met", aim)
	line("when there was one to take away.\n")
	line("What followed from it: %d pending ranges were delivered again by a new owner; ClickHouse ignored %d inserts", r.again, r.ignored)
	line("whose token it had seen (counted once a second, so some are not in it); %d transactions were aborted and done", r.aborted)
	line("again by their owner; the sender posted %d times more than once; services ended by themselves %d times.", r.summary.Retries, r.alone)
	line("The webhook refused %d times and broke off without an answer %d times, both on purpose, and got %d signals again,", r.hookRefused, r.hookLost, r.hookedAgain)
	line("which it knew by their ids.")
	if len(r.complaints) > 0 {
		line("\n## What does not balance\n\n```text\n%s", strings.Join(r.complaints, "\n"))
		if r.complaintsLeft > 0 {
			line("and %d more", r.complaintsLeft)
		}
		line("```")
	}
	return b.String()
}

// jarVersion is the version of Kafka in a folder of jars.
func jarVersion(dir string) string {
	jars, err := filepath.Glob(filepath.Join(dir, "kafka_*.jar"))
	if err != nil || len(jars) == 0 {
		return "unknown"
	}
	name := strings.TrimSuffix(filepath.Base(jars[0]), ".jar")
	return name[strings.LastIndexByte(name, '-')+1:]
}
