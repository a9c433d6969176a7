package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Publisher writes records in transactions of its own, outside of any group: each
// call of Publish becomes visible whole or not at all.
type Publisher struct{ client *kgo.Client }

// Publisher takes a transactional id over: whoever had it before can publish no
// more, and what it left open is aborted by the time this returns. Marks in the
// dedup topic and deliveries go to the partition that their record names.
func (c *Clients) Publisher(ctx context.Context, transactionalID string) (*Publisher, error) {
	client, err := c.Producer(
		kgo.TransactionalID(transactionalID),
		kgo.TransactionTimeout(publishTimeout),
		kgo.RecordPartitioner(c.pinned()),
	)
	if err != nil {
		return nil, err
	}
	if _, _, err := client.ProducerID(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("transactional id %s: %w", transactionalID, err)
	}
	return &Publisher{client}, nil
}

// publishTimeout bounds one transaction.
const publishTimeout = 60 * time.Second

// Publish returns when the records are visible to consumers that read committed,
// or with an error when none is. The records then name their places. An end of
// ctx keeps it from beginning, and does not interrupt it: a transaction whose end
// was canceled leaves it unknown.
func (p *Publisher) Publish(ctx context.Context, records ...*kgo.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	if err := p.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := p.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return errors.Join(fmt.Errorf("publish %d records: %w", len(records), err),
			p.client.AbortBufferedRecords(ctx), p.client.EndTransaction(ctx, kgo.TryAbort))
	}
	if err := p.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit %d records: %w", len(records), err)
	}
	return nil
}

// Close ends the client.
func (p *Publisher) Close() { p.client.Close() }
