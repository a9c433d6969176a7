package clickhouse

import (
	"reflect"
	"strings"
	"testing"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"mailriver/pkg/config"
)

func TestDefaultConfig_isValid(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestConfig_endpoint(t *testing.T) {
	tests := []struct {
		url  string
		want endpoint
	}{
		{"http://localhost:8123/mailriver", endpoint{
			protocol: driver.HTTP, hosts: []string{"localhost:8123"},
			auth: driver.Auth{Database: "mailriver", Username: "default"},
		}},
		{"https://u:p@ch.example.com/x?compress=zstd", endpoint{
			protocol: driver.HTTP, hosts: []string{"ch.example.com:8443"}, tls: true,
			auth: driver.Auth{Database: "x", Username: "u", Password: "p"}, compression: driver.CompressionZSTD,
		}},
		{"clickhouse://u:p@a:9000,b:9001/", endpoint{
			protocol: driver.Native, hosts: []string{"a:9000", "b:9001"},
			auth: driver.Auth{Database: "mailriver", Username: "u", Password: "p"}, compression: driver.CompressionLZ4,
		}},
		{"clickhouse://a?secure=true&compress=none", endpoint{
			protocol: driver.Native, hosts: []string{"a:9440"}, tls: true,
			auth: driver.Auth{Database: "mailriver", Username: "default"},
		}},
	}
	for _, tt := range tests {
		got, err := Config{URL: tt.url}.endpoint()
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("endpoint(%s) = %+v, %v, want %+v", tt.url, got, err, tt.want)
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no url", func(c *Config) { c.URL = "" }, "url: is required"},
		{"no host", func(c *Config) { c.URL = "http:///x" }, "url: has no host"},
		{"not a url", func(c *Config) { c.URL = "http://u:hunter2@h:port/x" }, "url: is not a URL"},
		{"other scheme", func(c *Config) { c.URL = "mysql://u:hunter2@h/x" }, "url: scheme is"},
		{"database", func(c *Config) { c.URL = "http://h/a;b" }, "url: database is"},
		{"setting", func(c *Config) { c.URL = "http://h/a?debug=1" }, "url: \"debug\" is not a setting"},
		{"cluster", func(c *Config) { c.Cluster = "a'b" }, "cluster: is"},
		{"dial timeout", func(c *Config) { c.DialTimeout = 0 }, "dial_timeout: is 0s"},
		{"two passwords", func(c *Config) {
			c.URL, c.Password = "http://u:hunter2@h/x", config.NewSecret("${env:X}")
		}, "password: the url holds one too"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			err := c.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Validate() = %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Validate() = %q, which shows the password", err)
			}
		})
	}
}
