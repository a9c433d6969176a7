package pending

import (
	"encoding/json"
	"fmt"
)

// mark is the metadata of a committed offset while a range is pending. It is
// read by later versions of the program, and by people.
type mark struct {
	Version int    `json:"mailriver_pending"`
	First   int64  `json:"first"`
	Last    int64  `json:"last"`
	Token   string `json:"token"`
}

const markVersion = 1

func (m mark) String() string {
	m.Version = markVersion
	text, err := json.Marshal(m)
	if err != nil {
		return "" // not possible for these types
	}
	return string(text)
}

// parseMark tells a mark from the metadata of other clients, such as the member
// id that kgo leaves.
func parseMark(metadata string) (mark, bool) {
	var m mark
	if err := json.Unmarshal([]byte(metadata), &m); err != nil || m.Version != markVersion {
		return mark{}, false
	}
	return m, true
}

// token names a range, and no other. That it comes again with its range is the
// work of the mark. It is made of the topic's identity, the partition and the
// offsets; the leader epoch of the first record keeps it apart from a range at
// the same offsets that an unclean election took back.
func token(scope string, partition, epoch int32, first, last int64) string {
	return fmt.Sprintf("%s/%d/%d-%d/e%d", scope, partition, first, last, epoch)
}
