// Package suppression decides who must not be mailed. It classifies canonical
// events into facts, merges facts into the state of an address, and lets a
// policy read entries off a state.
//
// It is pure: no Kafka, no clock, no storage. The merge is a join, so the same
// set of facts gives the same state in any order, however often and in however
// many parts it arrives. It does not know how a state is written
// (pkg/suppressionavro) or served (services/suppression).
package suppression
