package ses

import (
	"net/textproto"
	"strings"
	"testing"
)

func TestStringToSign(t *testing.T) {
	full := envelope{
		"Type": "T", "MessageId": "I", "TopicArn": "A", "Subject": "S", "Message": "line\nbreak\n", "Timestamp": "W",
		"SubscribeURL": "U", "Token": "K", "Signature": "X", "SigningCertURL": "C", "SignatureVersion": "V",
	}
	bare := envelope{"Type": "T", "MessageId": "I", "TopicArn": "A", "Message": "M", "Timestamp": "W"}
	empty := envelope{"Type": "T", "MessageId": "I", "TopicArn": "A", "Subject": "", "Message": "M", "Timestamp": "W"}
	tests := []struct {
		name string
		e    envelope
		kind string
		want string
	}{
		{"notification", full, "Notification", "Message\nline\nbreak\n\nMessageId\nI\nSubject\nS\nTimestamp\nW\nTopicArn\nA\nType\nT\n"},
		{"without subject", bare, "Notification", "Message\nM\nMessageId\nI\nTimestamp\nW\nTopicArn\nA\nType\nT\n"},
		{"with an empty subject", empty, "Notification", "Message\nM\nMessageId\nI\nSubject\n\nTimestamp\nW\nTopicArn\nA\nType\nT\n"},
		{"confirmation", full, "SubscriptionConfirmation", "Message\nline\nbreak\n\nMessageId\nI\nSubscribeURL\nU\nTimestamp\nW\nToken\nK\nTopicArn\nA\nType\nT\n"},
		{"end of a subscription", full, "UnsubscribeConfirmation", "Message\nline\nbreak\n\nMessageId\nI\nSubscribeURL\nU\nTimestamp\nW\nToken\nK\nTopicArn\nA\nType\nT\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(tt.e.stringToSign(signedFields(tt.kind))); got != tt.want {
				t.Errorf("stringToSign() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestReadEnvelope(t *testing.T) {
	tests := []struct {
		name, body string
		want       envelope // nil: an error
	}{
		{"strings", `{"Type":"a","Message":"b\n\u00e4\ud83d\ude00\/"}`, envelope{"Type": "a", "Message": "b\nä😀/"}},
		{"other types are as good as absent", `{"Type":1,"Message":null,"Token":{"a":"b"},"Subject":true,"MessageId":["x"]}`, envelope{}},
		{"white space around it", " \r\n{ \"Type\" : \"a\" }\n", envelope{"Type": "a"}},
		{"escaped name", `{"\u0054ype":"a"}`, envelope{"Type": "a"}},
		{"twice", `{"Type":"a","Type":"a"}`, nil},
		{"twice, once escaped", `{"Type":"a","\u0054ype":"a"}`, nil},
		{"twice, once null", `{"Type":"a","Type":null}`, nil},
		{"another case is another name", `{"Type":"a","type":"b"}`, envelope{"Type": "a", "type": "b"}},
		{"not JSON", `Type=a`, nil},
		{"two values", `{"Type":"a"}{"Type":"b"}`, nil},
		{"text", `"Type"`, nil},
		{"array", `[{"Type":"a"}]`, nil},
		{"nothing", ``, nil},
		{"deep", strings.Repeat("[", 1<<20), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readEnvelope([]byte(tt.body))
			if (err == nil) != (tt.want != nil) || len(got) != len(tt.want) {
				t.Fatalf("readEnvelope() = %v, %v, want %v", got, err, tt.want)
			}
			for name, want := range tt.want {
				if have, there := got[name]; !there || have != want {
					t.Errorf("%s = %q, want %q", name, have, want)
				}
			}
		})
	}
}

func TestIsRaw(t *testing.T) {
	for _, tt := range []struct {
		raw, typ string
		want     bool
	}{
		{"true", "Notification", true},
		{"True", "Notification", true},
		{"false", "Notification", false},
		{"", "Notification", false},
		{"true", "SubscriptionConfirmation", false},
		{"true", "UnsubscribeConfirmation", false},
		{"true", "", false},
	} {
		h := textproto.MIMEHeader{}
		h.Set("x-amz-sns-rawdelivery", tt.raw)
		h.Set("x-amz-sns-message-type", tt.typ)
		if got := isRaw(h); got != tt.want {
			t.Errorf("isRaw(%q, %q) = %t, want %t", tt.raw, tt.typ, got, tt.want)
		}
	}
}
