// Package machine tells engagement by machines from engagement by people: opens
// by proxies that fetch images before anybody reads, and clicks by scanners that
// follow links to see where they lead. It names evidence by codes.
//
// Two kinds of evidence are told apart. [Stateless] is what one event says by
// itself: the normalizer asks it, and the answer is part of the canonical event.
// [OverTime] is what several events of one recipient say together, such as a
// click sooner after the delivery than anybody can read: lead scoring asks it.
//
// A person who is taken for a machine is a lead that is lost, and a machine that
// is taken for a person is a lead too warm. The first is worse, so what speaks
// for both is left open: no evidence here is a verdict unless it would be hard
// to find a person behind it.
//
// The package does not know the clock, does not look anything up, and does not
// learn. It never says that a person did something: that is for providers. What
// it does not use, and why, is in docs/machine.md.
package machine

import "mailriver/pkg/event"

// Stateless returns what one event says by itself: a value of the canonical
// field machine and the codes for machine_evidence. Both are empty unless the
// event is an open or a click.
func Stateless(e *event.Event) (verdict string, evidence []string) {
	if e.Type != event.Opened && e.Type != event.Clicked {
		return "", nil
	}
	if e.Machine == event.MachineYes || e.Machine == event.MachineNo {
		return e.Machine, e.MachineEvidence
	}
	return event.MachineUnknown, e.MachineEvidence
}
