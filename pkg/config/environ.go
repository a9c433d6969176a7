package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const envPrefix = "MAILRIVER_"

// notConfiguration are variables of other use that share the prefix. A key of
// the same name comes first.
var notConfiguration = map[string]bool{
	"MAILRIVER_CONFIG":         true, // the path of the file
	"MAILRIVER_REQUIRE":        true, // tests that must not be skipped
	"MAILRIVER_CHDB_LIBRARY":   true, // where the embedded ClickHouse engine is
	"MAILRIVER_CLICKHOUSE_URL": true, // a ClickHouse for tests
	"MAILRIVER_DATA_DIR":       true, // where the all-in-one keeps its data
}

// serviceLink is what Kubernetes sets in every pod for each service of the
// namespace.
var serviceLink = regexp.MustCompile(
	`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// place is a key of the configuration.
type place struct {
	path  string // loader.max_rows
	value reflect.Value
}

func applyEnviron(into any, environ []string) error {
	var problems Problems
	root := reflect.ValueOf(into).Elem()
	places := map[string]place{}
	collect(root, "", places, &problems)
	sections := map[string]bool{}
	for name := range places {
		section, _, _ := strings.Cut(strings.TrimPrefix(name, envPrefix), "_")
		sections[section] = true
	}

	variables := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, envPrefix) {
			variables[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		at, known := places[name]
		section, _, _ := strings.Cut(strings.TrimPrefix(name, envPrefix), "_")
		switch {
		case known:
			if err := set(at.value, variables[name]); err != nil {
				problems.Add(fmt.Errorf("%s (%s): %w", name, at.path, err))
			}
		case notConfiguration[name] || serviceLink.MatchString(name) || !sections[section]:
		case inFileOnly(name, places) != "":
			problems.Add(fmt.Errorf("%s: %s: %w", name, inFileOnly(name, places), errFileOnly))
		default:
			problems.Add(fmt.Errorf("%s: no key of the configuration has this name", name))
		}
	}
	return problems.Err()
}

var errFileOnly = errors.New("cannot be set by a variable, only in the file")

// inFileOnly returns the path of the list or map that the variable tries to
// reach into, as MAILRIVER_SOURCES_0_NAME does.
func inFileOnly(name string, places map[string]place) string {
	for variable, at := range places {
		if strings.HasPrefix(name, variable+"_") && !settable(at.value.Type()) {
			return at.path
		}
	}
	return ""
}

// settable says whether set can make a value of the type out of one text.
func settable(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Pointer:
		return settable(t.Elem())
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Slice && settable(t.Elem())
	}
	return false
}

// collect finds the keys below a struct. Two keys with one variable are a
// mistake of the struct, found by the first test that loads it.
func collect(structure reflect.Value, path string, into map[string]place, problems *Problems) {
	for i := range structure.NumField() {
		field := structure.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if key == "-" {
			continue
		}
		value := structure.Field(i)
		if strings.Contains(options, "inline") {
			collect(value, path, into, problems)
			continue
		}
		if key == "" {
			key = strings.ToLower(field.Name) // the rule of package yaml
		}
		below := key
		if path != "" {
			below = path + "." + key
		}
		if value.Kind() == reflect.Struct && textUnmarshaler(value) == nil {
			collect(value, below, into, problems)
			continue
		}
		name := variable(below)
		if first, twice := into[name]; twice {
			problems.Add(fmt.Errorf("%s is the variable of both %s and %s", name, first.path, below))
		}
		into[name] = place{below, value}
	}
}

func variable(path string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(path))
}

func textUnmarshaler(value reflect.Value) encoding.TextUnmarshaler {
	if !value.CanAddr() {
		return nil
	}
	u, _ := value.Addr().Interface().(encoding.TextUnmarshaler)
	return u
}

func set(value reflect.Value, text string) error {
	if !settable(value.Type()) {
		return errFileOnly
	}
	if u := textUnmarshaler(value); u != nil {
		return u.UnmarshalText([]byte(text))
	}
	if value.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not %s", text, durationForm)
		}
		value.SetInt(int64(d))
		return nil
	}
	switch value.Kind() {
	case reflect.String:
		value.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		value.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, value.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number of this size", text)
		}
		value.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, value.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number of this size", text)
		}
		value.SetUint(n)
	case reflect.Float32, reflect.Float64:
		n, err := strconv.ParseFloat(text, value.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		value.SetFloat(n)
	case reflect.Pointer:
		fresh := reflect.New(value.Type().Elem())
		if err := set(fresh.Elem(), text); err != nil {
			return err
		}
		value.Set(fresh)
	case reflect.Slice:
		return setList(value, text)
	}
	return nil
}

func setList(value reflect.Value, text string) error {
	list := reflect.MakeSlice(value.Type(), 0, 4)
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		element := reflect.New(value.Type().Elem()).Elem()
		if err := set(element, part); err != nil {
			return err
		}
		list = reflect.Append(list, element)
	}
	value.Set(list)
	return nil
}
