package config

import (
	"errors"
	"fmt"
)

// Problems collects everything that is wrong, so that a person can fix it in
// one go. Its zero value is ready to use.
type Problems struct{ errs []error }

// Must adds a problem unless ok. The text starts with the key that is wrong:
// "max_rows: is 0, must be at least 1".
func (p *Problems) Must(ok bool, format string, args ...any) {
	if !ok {
		p.errs = append(p.errs, fmt.Errorf(format, args...))
	}
}

// Add adds err, which may be nil.
func (p *Problems) Add(err error) {
	if err != nil {
		p.errs = append(p.errs, err)
	}
}

// Err returns the problems as one error, a line each, or nil.
func (p *Problems) Err() error { return errors.Join(p.errs...) }

// Prefix puts a text before every error that err joins, so that each line stands
// for itself: with "loader.", the "max_rows: is 0" of that section becomes
// "loader.max_rows: is 0". A nil err stays nil.
func Prefix(prefix string, err error) error {
	if err == nil {
		return nil
	}
	var problems Problems
	for _, one := range lines(err) {
		problems.Add(fmt.Errorf("%s%w", prefix, one))
	}
	return problems.Err()
}

// lines returns the errors that errors.Join put together, however deep. An
// error that fmt.Errorf made of several with %w is one: its text is not theirs,
// one a line.
func lines(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	parts := joined.Unwrap()
	if errors.Join(parts...).Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, part := range parts {
		all = append(all, lines(part)...)
	}
	return all
}
