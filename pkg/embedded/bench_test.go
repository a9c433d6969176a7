package embedded

import (
	"log/slog"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// BenchmarkProduce is one acknowledged record after another: what a webhook
// waits for at least.
func BenchmarkProduce(b *testing.B) {
	k, err := startKafka(b.Context(), b.TempDir(), "127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = k.close() }()
	if err := tryCreateTopic(b.Context(), k.addrs(), 6); err != nil {
		b.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addrs()...), kgo.ProducerLinger(0))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	value := make([]byte, 1000)
	for _, parallel := range []int{1, 64} {
		b.Run(strconv.Itoa(parallel), func(b *testing.B) {
			b.SetParallelism(parallel)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := cl.ProduceSync(b.Context(), &kgo.Record{Topic: topic, Value: value}).FirstErr(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkTransaction is a transaction with a batch in each of six partitions.
func BenchmarkTransaction(b *testing.B) {
	k, err := startKafka(b.Context(), b.TempDir(), "127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = k.close() }()
	if err := tryCreateTopic(b.Context(), k.addrs(), 6); err != nil {
		b.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addrs()...), kgo.TransactionalID("x"),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	for b.Loop() {
		if err := cl.BeginTransaction(); err != nil {
			b.Fatal(err)
		}
		var records []*kgo.Record
		for p := range int32(6) {
			records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: make([]byte, 1000)})
		}
		if err := cl.ProduceSync(b.Context(), records...).FirstErr(); err != nil {
			b.Fatal(err)
		}
		if err := cl.EndTransaction(b.Context(), kgo.TryCommit); err != nil {
			b.Fatal(err)
		}
	}
}
