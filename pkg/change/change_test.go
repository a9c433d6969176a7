package change_test

import (
	"fmt"
	"net/textproto"
	"reflect"
	"testing"
	"time"

	"mailriver/pkg/change"
	"mailriver/pkg/esp/mailriver"
	"mailriver/pkg/event"
	"mailriver/pkg/raw"
)

const topic = "email.raw.v1"

var at = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

func changes(n int) []mailriver.Change {
	list := make([]mailriver.Change, n)
	for i := range list {
		list[i] = mailriver.Change{
			ID: event.NewID("test", "", "", fmt.Sprint(i)), Action: mailriver.ActionAdd,
			Address: fmt.Sprintf("person%d@example.com", i), ScopeKind: event.ScopeAddress, Reason: "manual",
			At: at, Actor: "cli", Origin: mailriver.OriginImport,
		}
	}
	return list
}

// A record is read as any webhook's is, and says what was said. The key is that
// of the delivery: red when the one change of a body goes by another.
func TestRecords_one(t *testing.T) {
	list := changes(1)
	records, err := change.Records(topic, list, at)
	if err != nil || len(records) != 1 {
		t.Fatalf("Records() = %d records, %v, want 1", len(records), err)
	}
	if got := records[0]; got.Topic != topic || string(got.Key) != list[0].ID.String() || !got.Timestamp.Equal(at) {
		t.Errorf("record of %s, key %s, at %s; want %s, %s, %s", got.Topic, got.Key, got.Timestamp, topic, list[0].ID, at)
	}
	got, err := raw.Read(records[0])
	if err != nil {
		t.Fatal(err)
	}
	body, err := mailriver.Encode(list)
	if err != nil {
		t.Fatal(err)
	}
	want := raw.Record{
		Provider: "mailriver", Source: "mailriver", ReceivedAt: at, ContentType: "application/json",
		Header: textproto.MIMEHeader{}, Body: body,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Read(record) = %+v, want %+v", got, want)
	}
}

// Many changes are as many records as needed: none is lost, none doubled, and
// all stay in order.
func TestRecords_many(t *testing.T) {
	for _, n := range []int{0, 2, mailriver.MaxChanges, mailriver.MaxChanges + 1, 2*mailriver.MaxChanges + 7} {
		list := changes(n)
		records, err := change.Records(topic, list, at)
		if err != nil {
			t.Fatal(err)
		}
		if want := (n + mailriver.MaxChanges - 1) / mailriver.MaxChanges; len(records) != want {
			t.Errorf("Records(%d changes) = %d records, want %d", n, len(records), want)
		}
		var ids []string
		for _, k := range records {
			r, err := raw.Read(k)
			if err != nil {
				t.Fatal(err)
			}
			hook, err := r.Webhook(mailriver.Provider.MaxBody)
			if err != nil {
				t.Fatal(err)
			}
			result, err := mailriver.Provider.Parse(hook)
			if err != nil || len(result.Rejected) > 0 {
				t.Fatalf("Parse() = %v rejected, %v", result.Rejected, err)
			}
			for _, e := range result.Events {
				ids = append(ids, e.NativeEventID)
			}
			if len(result.Events) > 1 && string(k.Key) != raw.DeliveryKey("", r.Body) {
				t.Errorf("key of %d changes = %s, want the digest of the body", len(result.Events), k.Key)
			}
		}
		for i, c := range list {
			if i >= len(ids) || ids[i] != c.ID.String() {
				t.Fatalf("%d changes became %d events; number %d is not the change of its place", n, len(ids), i)
			}
		}
		if len(ids) != n {
			t.Errorf("%d changes became %d events", n, len(ids))
		}
	}
}

// One bad change among many: its place is that in the whole list, and nothing
// is written.
func TestRecords_nothingOfABadList(t *testing.T) {
	list := changes(mailriver.MaxChanges + 2)
	list[mailriver.MaxChanges+1].Address = "person"
	records, err := change.Records(topic, list, at)
	const want = "changes[501].address: must be local-part@domain, without control characters, of at most 320 bytes"
	if len(records) != 0 || err == nil || err.Error() != want {
		t.Errorf("Records() = %d records, %v, want none and %s", len(records), err, want)
	}
}
