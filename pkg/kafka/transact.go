package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Outcome is what a handler made of the records of one transaction.
type Outcome struct {
	// Records become visible together with the offsets of the input.
	Records []*kgo.Record
	// Check, if set, is asked when all records are acknowledged, before the
	// transaction commits. An error aborts it.
	Check func(ctx context.Context) error
	// Done, if set, is told how the transaction ended. After false the same
	// input comes again.
	Done func(committed bool)
}

// Transactor consumes, transforms and produces exactly once: the outputs of a
// poll and the offsets of its inputs become visible together, to consumers that
// read committed.
type Transactor struct {
	// Open returns a new session. It is called at the start and after an error
	// that a session does not get over.
	Open func() (*kgo.GroupTransactSession, error)
	// Handle must not keep any effect before Done(true): a transaction that
	// aborts runs it again. An error is about the whole batch, which comes again.
	Handle func(ctx context.Context, batch []*kgo.Record) (Outcome, error)
	// MaxRecords bounds the input of one transaction.
	MaxRecords int
	// RetryWait is the pause after a batch that failed.
	RetryWait time.Duration
	// OnEnd, if set, observes each transaction.
	OnEnd func(ctx context.Context, committed bool, took time.Duration)
	// Replays, if set, tells Handle what is read again. Open must give its Option
	// to the session.
	Replays *Replays
	Logger  *slog.Logger
}

// Run works until ctx ends, which is not an error. A transaction in hand is
// finished first. Errors of Kafka are waited out, for as long as they last.
func (t *Transactor) Run(ctx context.Context) error {
	for {
		err := t.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		t.Logger.ErrorContext(ctx, "transaction session ended, opening another", "err", err)
		if !sleep(ctx, t.RetryWait) {
			return nil
		}
	}
}

// session works with one session until it fails or ctx ends.
func (t *Transactor) session(ctx context.Context) error {
	sess, err := t.Open()
	if err != nil {
		return err
	}
	defer sess.Close()
	for {
		fetches := sess.PollRecords(ctx, t.MaxRecords)
		if ctx.Err() != nil {
			return nil // what was polled is not committed: it comes again
		}
		if err := FetchError(ctx, fetches, t.Logger); err != nil {
			return err
		}
		if fetches.Empty() {
			continue
		}
		if err := t.once(ctx, sess, fetches.Records()); err != nil {
			return err
		}
	}
}

// once runs one transaction to its end. Shutdown does not interrupt it: an End
// that was canceled leaves the session unusable.
func (t *Transactor) once(shutdown context.Context, sess *kgo.GroupTransactSession, batch []*kgo.Record) error {
	ctx := context.WithoutCancel(shutdown)
	begun := time.Now()
	if err := sess.Begin(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	out, handleErr := t.Handle(shutdown, batch)
	promise := kgo.AbortingFirstErrPromise(sess.Client())
	if handleErr == nil {
		for _, record := range out.Records {
			sess.Produce(ctx, record, promise.Promise())
		}
	}
	produceErr := promise.Err() // waits for every record
	failed := errors.Join(handleErr, produceErr)
	if failed == nil && out.Check != nil {
		failed = out.Check(shutdown)
	}
	committed, err := sess.End(t.Replays.keeping(ctx), kgo.TransactionEndTry(failed == nil))
	committed = committed && err == nil
	if out.Done != nil {
		out.Done(committed)
	}
	if t.OnEnd != nil {
		t.OnEnd(ctx, committed, time.Since(begun))
	}
	if err != nil {
		return fmt.Errorf("end: %w", err) // never retryable in this session
	}
	if committed {
		return nil
	}
	// A rebalance, or a failure above. The session went back to the last
	// commit, so the inputs come again.
	t.Logger.WarnContext(ctx, "transaction aborted, its input comes again", "records", len(batch), "err", failed)
	if failed != nil {
		sleep(shutdown, t.RetryWait)
	}
	return nil
}

// FetchError returns the first error of a poll that the client does not get over
// by itself (kgo documents the classes at Fetches.Errors). What it got over is
// logged.
func FetchError(ctx context.Context, fetches kgo.Fetches, log *slog.Logger) (fatal error) {
	fetches.EachError(func(topic string, partition int32, err error) {
		_, dataLoss := errors.AsType[*kgo.ErrDataLoss](err)
		_, session := errors.AsType[*kgo.ErrGroupSession](err)
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		case dataLoss, session:
			log.WarnContext(ctx, "kafka recovered", "topic", topic, "partition", partition, "err", err)
		case fatal == nil:
			fatal = fmt.Errorf("fetch %s/%d: %w", topic, partition, err)
		}
	})
	return fatal
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// TransactionMetrics counts what a [Transactor] did. Its service makes and names
// the instruments.
type TransactionMetrics struct {
	Ended metric.Int64Counter     // by outcome: committed or aborted
	Took  metric.Float64Histogram // from the begin to the end, in seconds
}

// Count is for [Transactor.OnEnd].
func (m *TransactionMetrics) Count(ctx context.Context, committed bool, took time.Duration) {
	outcome := "aborted"
	if committed {
		outcome = "committed"
	}
	m.Ended.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
	m.Took.Record(ctx, took.Seconds())
}
