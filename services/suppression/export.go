package suppression

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"

	"mailriver/pkg/event"
	"mailriver/pkg/httpserver/api"
	model "mailriver/pkg/suppression"
	"mailriver/pkg/suppression/layout"
)

// perExport is how many addresses are read at once. An export reads page by
// page: a client that reads slowly must not hold up the local copy, and what is
// in memory is one page.
const perExport = 2000

// Headers of an export.
const (
	headerAsOf    = "Mailriver-As-Of"
	headerLeftOut = "Mailriver-Left-Out" // a trailer
)

func getExport(s *Service, l *list, c *gin.Context) error {
	q, err := api.ParseQuery(c, append(filterParams(), paramFormat, paramLayout, paramList, paramSpreadsheet)...)
	if err != nil {
		return err
	}
	var fields api.Fields
	f := readFile(&fields, q, "")
	f.options.List = layout.List(q.Get(paramList))
	want, err := readFilter(q)
	if !fields.Join(err) {
		return err
	}
	// A file about one stream or list holds what the filter is about.
	f.options.ScopeKind, f.options.ScopeID = want.scopeKind, want.scopeID
	out, err := layout.NewWriter(c.Writer, f.layout, f.format, f.options)
	if err != nil && fields.Err() == nil {
		return fieldsOf(err)
	}
	if err := fields.Err(); err != nil {
		return err
	}
	ctx := c.Request.Context()
	from, leftOut := "", 0
	for begun := false; ; begun = true {
		page, next, err := l.exportPage(ctx, from, want, s.deps.Now)
		if err != nil {
			return err
		}
		// A copy that was emptied meanwhile is not the list: what comes of it
		// must not look whole.
		asOf, err := l.current()
		if err != nil {
			return err
		}
		if !begun {
			c.Header("Content-Type", f.format.ContentType())
			c.Header("Content-Disposition", fmt.Sprintf(`attachment; filename="suppressions.%s"`, f.format))
			c.Header(headerAsOf, asOf)
			c.Header("Trailer", headerLeftOut)
			c.Status(http.StatusOK)
		}
		s.stillAt(c)
		for _, entries := range page {
			n, err := writeAddress(out, f.layout, entries)
			if err != nil {
				return err
			}
			leftOut += n
		}
		if from = next; from == "" {
			break
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	c.Writer.Header().Set(headerLeftOut, strconv.Itoa(leftOut))
	return nil
}

// exportPage reads the entries in force of the next addresses.
func (l *list) exportPage(ctx context.Context, from string, want filter, now clock) (page [][]model.Entry, next string, err error) {
	at := now()
	next, err = l.scan(ctx, from, perExport, want.address, func(entries []model.Entry) (bool, error) {
		entries = slices.DeleteFunc(model.Active(entries, at), func(e model.Entry) bool { return !want.entry(e) })
		if len(entries) > 0 {
			page = append(page, entries)
		}
		return true, nil
	})
	return page, next, err
}

// writeAddress writes the entries of one address and says how many the layout
// cannot hold. The lists of providers have one line for each address and scope,
// which is that of the strongest reason.
func writeAddress(out *layout.Writer, l layout.Layout, entries []model.Entry) (leftOut int, err error) {
	type scope struct{ kind, id string }
	var written []scope
	for _, e := range entries {
		of := scope{e.ScopeKind, e.ScopeID}
		if e.ScopeKind == event.ScopeAccount && e.ScopeID == "" {
			of = scope{event.ScopeAddress, ""} // a provider knows no difference
		}
		if l != layout.Mailriver && slices.Contains(written, of) {
			continue
		}
		err := out.Write(e)
		if errors.Is(err, layout.ErrNotInList) {
			leftOut++
			continue
		}
		if err != nil {
			return leftOut, err
		}
		written = append(written, of)
	}
	return leftOut, nil
}
