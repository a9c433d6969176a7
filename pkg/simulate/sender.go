package simulate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Sender posts requests as the providers do: several at a time, and again when
// the answer makes this provider try again. Its patience is short compared with
// theirs, which is hours.
type Sender struct {
	// Client posts. It must not follow redirects; nil means one that does not.
	Client *http.Client
	// Rate bounds the events per second, over all sources; a request without
	// events counts as one. 0 means as fast as the answers come.
	Rate float64
	// Concurrency is how many requests are under way at a time; 0 means 16.
	Concurrency int
	// Attempts is how often a request is posted at most; 0 means 8.
	Attempts int
	// Wait is the pause before attempt n (from 2 on); nil doubles from 100 ms
	// to 5 s, with jitter.
	Wait func(n int) time.Duration
	// RetryAll tries again also where the provider would give up, so that a
	// receiver that was down for a while gets everything in the end. Forgeries
	// are never posted twice.
	RetryAll bool
	// OnAnswer is told of every answer, and of every attempt without one, for
	// which status is 0. It is called from several goroutines.
	OnAnswer func(r Request, status int, err error)
	// Ledger, when set, is told of each request that was answered 200, before
	// the next one of its worker is posted. An error ends the run: a ledger
	// with holes proves nothing.
	Ledger *Ledger
}

// Summary is what became of the requests.
type Summary struct {
	Requests int            // posted at least once
	Events   int            // distinct events in requests that were accepted
	Accepted int            // requests answered with success, copies included
	Answers  map[int]int    // by status; 0 for attempts without an answer
	Retries  int            // attempts after the first
	Refused  int            // forgeries that were not accepted
	Slipped  int            // forgeries that were accepted: a hole in the receiver
	GivenUp  int            // genuine requests that were not accepted in the end
	Bytes    int64          // of bodies, each attempt counted
	Duration time.Duration  // from the first request to the last answer
	BySource map[string]int // accepted requests
}

// Verdict is what an answer means to a provider.
type Verdict int

// The verdicts.
const (
	Success Verdict = iota
	Retry           // it will send again
	GiveUp          // it will not: the events are gone
)

// Judge says what a provider makes of an answer to a request; status 0 means
// that none came. The rules are the vendors', each beside its dialect.
func Judge(r Request, status int) Verdict {
	v, _ := vendorOf(r.Provider)
	if v.judge == nil {
		return succeedsBy2xx(r, status)
	}
	return v.judge(r, status)
}

// succeedsBy2xx is a provider that takes every 2xx for success and anything
// else for a reason to send again.
func succeedsBy2xx(_ Request, status int) Verdict {
	if status >= 200 && status < 300 {
		return Success
	}
	return Retry
}

// succeedsBy200 is a provider that takes 200 alone for success and anything
// else for a reason to send again.
func succeedsBy200(_ Request, status int) Verdict {
	if status == http.StatusOK {
		return Success
	}
	return Retry
}

// Send posts the requests of a run until they or ctx end. What was under way
// when ctx ended counts as given up unless it was answered; the error is then
// that of ctx.
func (s Sender) Send(ctx context.Context, requests iter.Seq[Request]) (Summary, error) {
	s = s.withDefaults()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var (
		mu  sync.Mutex
		sum = Summary{Answers: map[int]int{}, BySource: map[string]int{}}
		wg  sync.WaitGroup
	)
	queue := make(chan Request)
	for range s.Concurrency {
		wg.Go(func() {
			for r := range queue {
				out := s.post(ctx, r)
				if out.accepted && !r.Forged && s.Ledger != nil {
					if err := s.Ledger.Accepted(r); err != nil {
						cancel(err)
					}
				}
				mu.Lock()
				sum.add(r, out)
				mu.Unlock()
			}
		})
	}

	begin := time.Now()
	var sent float64
	for r := range requests {
		if !s.pace(ctx, begin, sent) {
			break
		}
		sent += float64(max(len(r.Truth), 1))
		select {
		case queue <- r:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	wg.Wait()
	sum.Duration = time.Since(begin)
	return sum, context.Cause(ctx)
}

func (s Sender) withDefaults() Sender {
	if s.Concurrency <= 0 {
		s.Concurrency = 16
	}
	if s.Client == nil {
		s.Client = &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: s.Concurrency, IdleConnTimeout: 30 * time.Second},
			Timeout:       20 * time.Second, // longer than any receiver takes to say that it cannot
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if s.Attempts <= 0 {
		s.Attempts = 8
	}
	if s.Wait == nil {
		s.Wait = func(n int) time.Duration {
			most := min(100*time.Millisecond<<min(n-2, 10), 5*time.Second)
			return most/2 + time.Duration(rand.Int64N(int64(most/2)+1)) // jitter
		}
	}
	return s
}

// pace waits until the next request is due.
func (s Sender) pace(ctx context.Context, begin time.Time, sent float64) bool {
	if s.Rate <= 0 {
		return ctx.Err() == nil
	}
	due := begin.Add(time.Duration(sent / s.Rate * float64(time.Second)))
	return pause(ctx, time.Until(due))
}

func pause(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type outcome struct {
	answers  []int
	accepted bool
	bytes    int64
}

func (s Sender) post(ctx context.Context, r Request) outcome {
	var out outcome
	for n := 1; n <= s.Attempts; n++ {
		if n > 1 && !pause(ctx, s.Wait(n)) {
			return out
		}
		status, err := s.once(ctx, r)
		out.answers = append(out.answers, status)
		out.bytes += int64(len(r.Body))
		if s.OnAnswer != nil {
			s.OnAnswer(r, status, err)
		}
		verdict := Judge(r, status)
		if verdict == Success {
			out.accepted = true
			return out
		}
		if r.Forged || ctx.Err() != nil || verdict == GiveUp && !s.RetryAll {
			return out
		}
	}
	return out
}

func (s Sender) once(ctx context.Context, r Request) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return 0, fmt.Errorf("post to %s: %w", r.Source, err)
	}
	request.Header = r.Header.Clone()
	answer, err := s.Client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("post to %s: %w", r.Source, err)
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16)) // so that the connection is used again
	return answer.StatusCode, err
}

func (s *Summary) add(r Request, out outcome) {
	if len(out.answers) == 0 {
		return
	}
	s.Requests++
	s.Retries += len(out.answers) - 1
	s.Bytes += out.bytes
	for _, status := range out.answers {
		s.Answers[status]++
	}
	switch {
	case r.Forged && out.accepted:
		s.Slipped++
	case r.Forged:
		s.Refused++
	case out.accepted:
		s.Accepted++
		s.Events += r.Distinct
		s.BySource[r.Source]++
	default:
		s.GivenUp++
	}
}

// Ledger writes down what was answered 200: one line for each event, its id.
// Each line is flushed before the request counts as done. An event whose copies
// were accepted as well has several lines.
type Ledger struct {
	mu sync.Mutex
	w  *bufio.Writer
}

// NewLedger writes to w.
func NewLedger(w io.Writer) *Ledger { return &Ledger{w: bufio.NewWriter(w)} }

// Accepted writes down the events of a request.
func (l *Ledger) Accepted(r Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range r.Truth {
		if _, err := l.w.WriteString(e.ID.String() + "\n"); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	if err := l.w.Flush(); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// SignedCurl is one copyable command that posts a signed event: a Mailgun
// source, because its signature stands in the body.
func SignedCurl(s Source, now time.Time) (string, error) {
	if s.Provider != "mailgun" {
		return "", fmt.Errorf("source %q: is %s, must be mailgun", s.Name, s.Provider)
	}
	// The time is the seed: two commands are two events.
	g, err := newGenerator([]Source{s}, Options{Seed: uint64(now.UnixNano()), Events: 1, Span: time.Second, Start: now})
	if err != nil {
		return "", err
	}
	o := g.origins[0]
	m := g.newMessage(o, now)
	m.isTest, m.variant = false, 1
	e := o.tell(m, step{what: delivered, at: now.Truncate(time.Microsecond)}, 1)
	if e.json == nil {
		return "", errors.New("signed curl: there is no event")
	}
	r := o.pack([]element{e}, now)
	return "curl -i -X POST " + shellQuote(r.URL) + " -H 'Content-Type: application/json' --data-binary " +
		shellQuote(string(r.Body)), nil
}

// shellQuote is a word of a POSIX shell.
func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
