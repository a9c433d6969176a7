package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"mailriver/pkg/avro"
	"mailriver/pkg/event"
	"mailriver/pkg/eventavro"
	"mailriver/pkg/fault"
	"mailriver/pkg/kafka"
)

// tailFilter says which events tail prints. Empty lists let everything through.
type tailFilter struct {
	types, providers, sources, recipients []string
}

func (f tailFilter) lets(e event.Event) bool {
	in := func(list []string, value string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, value) })
	}
	return in(f.types, string(e.Type)) && in(f.providers, e.Provider) && in(f.sources, e.Source) &&
		(in(f.recipients, e.Recipient) || in(f.recipients, e.RecipientNormalized))
}

func (c *command) tail() *cobra.Command {
	var (
		filter tailFilter
		from   string
		limit  int
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print the canonical topic as JSON lines",
		Long: "Prints canonical events as they are published, one JSON object a line, with the field names of the\n" +
			"Avro schema. It joins no group and moves no offset.",
		Example: "  mailriver tail --type bounced,complained\n" +
			"  mailriver tail --from 1h --recipient ann@example.com --follow=false | jq .smtp_response",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			start, err := kafka.ParseMoment(from, time.Now())
			if err != nil {
				return usageError{cmd.CommandPath(), fmt.Errorf("from: %w", err)}
			}
			if limit < 0 {
				return usageError{cmd.CommandPath(), fmt.Errorf("limit: is %d, must not be negative", limit)}
			}
			if err := checkTypes(filter.types); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			process, err := c.open(cmd, "cli")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, process.Close(context.WithoutCancel(cmd.Context()))) }()
			registry, err := avro.Open(process.Config.Registry)
			if err != nil {
				return err
			}
			topic := process.Config.Kafka.Topics().Events
			span, err := process.Clients.Span(cmd.Context(), topic, start, kafka.End())
			if err != nil {
				return err
			}
			t := tailer{
				out: json.NewEncoder(cmd.OutOrStdout()), errs: cmd.ErrOrStderr(),
				decoder: eventavro.NewDecoder(registry), filter: filter, limit: limit,
			}
			t.out.SetEscapeHTML(false)
			each := func(r *kgo.Record) error { return t.print(cmd.Context(), r) }
			if follow {
				err = process.Clients.Follow(cmd.Context(), topic, span.From, each)
			} else {
				err = process.Clients.Read(cmd.Context(), span, each)
			}
			if errors.Is(err, errLimit) || errors.Is(err, context.Canceled) {
				return nil // enough, or interrupted by the person who looks
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&filter.types, "type", nil, "only these event types")
	cmd.Flags().StringSliceVar(&filter.providers, "provider", nil, "only these providers")
	cmd.Flags().StringSliceVar(&filter.sources, "source", nil, "only these sources")
	cmd.Flags().StringSliceVar(&filter.recipients, "recipient", nil, "only these recipients, in any case")
	cmd.Flags().StringVar(&from, "from", "end", `where to begin: "start", "end", a duration ago (15m) or a time (RFC 3339)`)
	cmd.Flags().IntVar(&limit, "limit", 0, "stop after this many events (0: never)")
	cmd.Flags().BoolVar(&follow, "follow", true, "wait for new events; without it, stop at the end of the topic")
	return cmd
}

func checkTypes(words []string) error {
	known, _ := event.Vocabulary("event_type")
	for _, word := range words {
		if !slices.Contains(known, strings.ToLower(word)) {
			return fmt.Errorf("type: %q is no event type: there are %s", word, strings.Join(known, ", "))
		}
	}
	return nil
}

// errLimit ends a tail that printed enough.
var errLimit = errors.New("limit reached")

// tailer prints what passes its filter.
type tailer struct {
	out     *json.Encoder
	errs    io.Writer
	decoder *eventavro.Decoder
	filter  tailFilter
	limit   int
	printed int
}

func (t *tailer) print(ctx context.Context, r *kgo.Record) error {
	e, err := t.decoder.Decode(ctx, r.Value)
	if reason, permanent := fault.Reason(err); permanent {
		_, err = fmt.Fprintf(t.errs, "%s: left out (%s): %v\n", kafka.Origin(r), reason, err)
		return err
	}
	if err != nil {
		return err
	}
	if !t.filter.lets(e) {
		return nil
	}
	if err := t.out.Encode(e); err != nil {
		return err
	}
	if t.printed++; t.printed == t.limit {
		return errLimit
	}
	return nil
}
