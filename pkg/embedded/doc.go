// Package embedded runs, in one process and on loopback addresses, what the
// services otherwise find on a network: a Kafka broker, a schema registry and
// ClickHouse. All three keep their data in one directory and survive a
// restart, kill -9 included. Nothing else in the repository knows the
// difference: the package supplies addresses.
//
// It is for trying, developing and testing. It has no users, no TLS, one
// broker, and it keeps everything: see the limits below.
//
// # Kafka
//
// The broker is franz-go's kfake, in this process, with its data directory and
// an fsync for each batch. Topics are not created by asking for them. Messages
// may have up to 32 MiB (message.max.bytes). What of its state lives how long:
//
//	kept always          records, topics and their configuration, committed
//	                     offsets with their metadata, producer ids and epochs,
//	                     results of transactions
//	kept over a clean    members of groups, fetch sessions, open transactions
//	stop only            (a producer may go on with them)
//	rebuilt here after   sequence numbers, so that an idempotent producer that
//	kill -9              lives elsewhere does not write a batch twice
//	never kept           transactional ids that were idle for 7 days
//
// After kill -9 a directory is repaired before the broker sees it, because
// kfake alone would break promises that Kafka keeps:
//
//   - It ends a transaction partition by partition, then commits the offsets,
//     and has no log of the decision. A process killed in between had committed
//     a part of it. Here the decision is written and synced first, and the
//     repair completes it.
//   - It aborts open transactions only in memory. Their records would become
//     committed by the next transaction of the same producer and one more
//     kill. The repair writes the missing abort markers.
//   - It writes a batch and its index entry one after the other. A batch without
//     the entry would count as written outside of any transaction.
//   - It appends to a log of groups or producers behind a torn entry, which
//     hides everything that follows from the next start. The repair cuts it.
//   - It reads whole partitions into memory when its snapshot is older than the
//     data, which is always so after kill -9. The repair writes snapshots.
//
// Differences to Apache Kafka that remain:
//
//   - Retention and compaction are off: topics keep what is configured for
//     them, but nothing is ever deleted. kfake deletes the files of a partition
//     before it writes the compacted ones, and starts an emptied partition
//     again at offset 0 after a restart. DeleteRecords is refused for the
//     second reason. Committed offsets do not expire.
//   - An offset commit that the group refuses within a transaction must be
//     followed by an abort, as every client does it.
//   - The result of fsync is not looked at, and directories are not synced.
//     Against the death of the process that changes nothing.
//   - Everything is handled by one goroutine; each batch costs two fsyncs.
//
// # Schema registry
//
// The registry is franz-go's srfake behind a file: a registration is answered
// after it is on disk, and ids, subjects and versions are the same after every
// start. Compatibility levels are kept, and not enforced: the registry says
// yes to every schema. Deleting, modes and contexts are refused.
//
// # ClickHouse
//
// See package chdb.
package embedded
