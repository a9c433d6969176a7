package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"mailriver/pkg/apiclient"
	"mailriver/pkg/config"
)

// served is an API that commands ask.
type served struct {
	service string // of mailriver
	section string // of the configuration, for commands
	key     string // environment variable of the key
	scopes  string // that all of its operations need
}

var (
	suppressionAPI = served{"suppression", "suppression_client", "MAILRIVER_SUPPRESSION_CLIENT_KEY", "read,write"} //nolint:gochecknoglobals // a constant, if structs could be
	leadAPI        = served{"leadscoring", "leadscoring_client", "MAILRIVER_LEADSCORING_CLIENT_KEY", "read"}       //nolint:gochecknoglobals // a constant, if structs could be
)

// advised adds to an error of the API what to do next.
func (s served) advised(cmd *cobra.Command, cfg apiclient.Config, err error) error {
	if err == nil || cmd.Context().Err() != nil {
		return err
	}
	if errors.Is(err, apiclient.ErrUnreachable) {
		return fmt.Errorf("%w\nstart it with `mailriver %s`, or name another with --url or %s.url", err, s.service, s.section)
	}
	p, ok := errors.AsType[*apiclient.Problem](err)
	switch {
	case !ok:
		return err
	case p.Foreign:
		return fmt.Errorf("%w\nis %s its address? --url or %s.url name another", err, config.RedactURL(cfg.URL), s.section)
	case p.Status == http.StatusBadRequest && len(p.Errors) > 0:
		return usageError{cmd.CommandPath(), err}
	case p.Status == http.StatusUnauthorized:
		return fmt.Errorf("%w\nmake one with `mailriver api-key new --name NAME`: what it prints for the configuration goes to the\n"+
			"service, and the key into %s.key here, or into %s", err, s.section, s.key)
	case p.Status == http.StatusForbidden && !cfg.Key.IsZero():
		return fmt.Errorf("%w\n`mailriver api-key new --name NAME --scope %s` makes a key that may", err, s.scopes)
	case p.Status == http.StatusServiceUnavailable && p.RetryAfter > 0:
		return fmt.Errorf("%w\ntry again in %s", err, p.RetryAfter)
	}
	return err
}
