package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/address"
	"mailriver/pkg/config"
	"mailriver/pkg/suppression/client"
	"mailriver/pkg/terminal"
)

// errSuppressed makes the exit status 3, which is no failure: the answer is yes.
var errSuppressed = errors.New("suppressed")

// checkSize is how many addresses are asked about at once: enough to be quick,
// and few enough for news.
const checkSize = 2000

// maxTable is how many addresses a table is made of. Its columns are as wide as
// the widest of all rows, so it is held in memory.
const maxTable = 10_000

func (s *suppress) check() *cobra.Command {
	var (
		file, output string
		mail         client.Mail
		fail         bool
	)
	cmd := &cobra.Command{
		Use:   "check [ADDRESS...]",
		Short: "Say which addresses must not be mailed",
		Long: "Checks addresses, or each line of a file. Without more, the answer is about any mail: what was opted out\n" +
			"of only in a list or stream does not count. Name the mail with --stream or --scope-kind and --scope-id\n" +
			"to have that counted, too.\n\n" +
			"A table and CSV have a line for each entry, and one for an address without any. A line of a file that\n" +
			"is no address is told by its number, and the others go on.\n\n" +
			"Exit status 0 says that all were checked; with --fail-if-suppressed, 3 says that one or more are\n" +
			"suppressed, so that a script can tell that from 1, a check that failed.",
		Example: "  mailriver suppress check ann@example.com bob@example.com\n" +
			"  mailriver suppress check --file recipients.txt --stream newsletter --output csv > checked.csv\n" +
			"  mailriver suppress check ann@example.com --fail-if-suppressed && send-the-mail",
		RunE: func(cmd *cobra.Command, args []string) error {
			usage := func(err error) error { return usageError{cmd.CommandPath(), err} }
			format, err := terminal.ParseFormat(output)
			if err == nil {
				err = checkScope(mail.ScopeKind, mail.ScopeID)
			}
			if err == nil && (len(args) == 0) == (file == "") {
				err = errors.New("addresses or --file: one of the two is required")
			}
			if err != nil {
				return usage(err)
			}
			checking := newChecking(cmd.OutOrStdout(), cmd.ErrOrStderr(), format)
			for _, arg := range args {
				if _, ok := address.Normalize(arg); !ok {
					return usage(fmt.Errorf("%.80q is no address", arg))
				}
			}
			lines, closeFile, err := openLines(cmd.InOrStdin(), file, args)
			if err != nil {
				return err
			}
			defer func() { _ = closeFile() }() // it was only read
			var told error
			err = s.with(cmd, func(api *client.Client) error {
				told, err = checking.all(lines, func(addresses []string) ([]client.Answer, error) {
					return api.Check(cmd.Context(), addresses, mail)
				})
				return err
			})
			if err := errors.Join(err, checking.close(), told); err != nil {
				return err
			}
			if fail && checking.suppressed > 0 {
				return fmt.Errorf("%d of %d addresses are %w", checking.suppressed, checking.checked, errSuppressed)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "check the addresses of this file, one a line (-: standard input)")
	mailFlags(cmd, &mail)
	cmd.Flags().BoolVar(&fail, "fail-if-suppressed", false, "exit status 3 if one or more are suppressed")
	outputFlag(cmd, &output)
	return cmd
}

// openLines returns the lines of a file, or those given.
func openLines(stdin io.Reader, file string, args []string) (*bufio.Scanner, func() error, error) {
	none := func() error { return nil }
	switch file {
	case "":
		return bufio.NewScanner(strings.NewReader(strings.Join(args, "\n"))), none, nil
	case "-":
		return bufio.NewScanner(stdin), none, nil
	}
	from, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	return bufio.NewScanner(from), from.Close, nil
}

// checking writes the answers as they come.
type checking struct {
	out, errs           io.Writer
	format              terminal.Format
	checked, suppressed int
	asOf                time.Time // of the oldest answer

	table terminal.List
	csv   *csv.Writer
}

func newChecking(out, errs io.Writer, format terminal.Format) *checking {
	columns := entryColumns()
	if format == terminal.Table {
		columns = peopleColumns()
	}
	columns = append([]string{"address", "suppressed"}, columns...)
	return &checking{out: out, errs: errs, format: format, table: terminal.List{Columns: columns, Wrap: []string{"note"}}, csv: csv.NewWriter(out)}
}

// all asks about every line. Those that are no address come back as told.
func (c *checking) all(lines *bufio.Scanner, ask func([]string) ([]client.Answer, error)) (told, err error) {
	progress := terminal.NewProgress(c.errs, -1, "checking", "addresses")
	defer progress.Done()
	var waiting []string
	flush := func() error {
		if len(waiting) == 0 {
			return nil
		}
		answers, err := ask(waiting)
		if err != nil {
			return err
		}
		progress.Add(len(waiting))
		waiting = waiting[:0]
		return c.write(answers)
	}
	var problems config.Problems
	bad, number := 0, 0
	for lines.Scan() {
		number++
		text := lines.Bytes()
		if number == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // of a file from Windows
		}
		given := strings.TrimSpace(string(text))
		if given == "" {
			continue
		}
		if _, ok := address.Normalize(given); !ok {
			bad++
			problems.Must(bad > maxToldLines, "line %d: %.80q is no address", number, given)
			continue
		}
		if waiting = append(waiting, given); len(waiting) < checkSize {
			continue
		}
		if err := flush(); err != nil {
			return nil, err
		}
	}
	problems.Must(bad <= maxToldLines, "and %d lines more", bad-maxToldLines)
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", number+1, err)
	}
	return problems.Err(), flush()
}

func (c *checking) write(answers []client.Answer) error {
	for _, a := range answers {
		if a.Suppressed {
			c.suppressed++
		}
		if c.asOf.IsZero() || a.AsOf.Before(c.asOf) {
			c.asOf = a.AsOf
		}
		if err := c.answer(a); err != nil {
			return err
		}
		c.checked++
	}
	if c.format == terminal.CSV {
		c.csv.Flush()
		return c.csv.Error()
	}
	return nil
}

func (c *checking) answer(a client.Answer) error {
	if c.format == terminal.JSON {
		separator := ",\n  "
		if c.checked == 0 {
			separator = "[\n  "
		}
		text, err := json.Marshal(a)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s%s", separator, text)
		return err
	}
	cells := entryCells
	if c.format == terminal.Table {
		cells = peopleCells
	}
	rows := make([][]any, 0, max(1, len(a.Entries)))
	for _, e := range a.Entries {
		rows = append(rows, append([]any{a.Address, a.Suppressed}, cells(e)...))
	}
	if len(rows) == 0 {
		row := make([]any, len(c.table.Columns))
		row[0], row[1] = a.Address, a.Suppressed
		rows = append(rows, row)
	}
	if c.format == terminal.Table {
		if c.checked >= maxTable {
			return fmt.Errorf("a table is for at most %d addresses: use --output csv or json", maxTable)
		}
		c.table.Rows = append(c.table.Rows, rows...)
		return nil
	}
	if c.checked == 0 {
		if err := c.csv.Write(c.table.Columns); err != nil {
			return err
		}
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = terminal.Text(cell)
		}
		if err := c.csv.Write(cells); err != nil {
			return err
		}
	}
	return nil
}

// close writes what is left.
func (c *checking) close() error {
	switch {
	case c.checked == 0 && c.format != terminal.Table:
		return terminal.Write(c.out, c.format, c.table) // without rows
	case c.format == terminal.JSON:
		_, err := fmt.Fprintln(c.out, "\n]")
		return err
	case c.format == terminal.CSV || c.checked == 0:
		return nil
	}
	if err := writePeople(c.out, c.table); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.errs, "%d of %d suppressed, as of %s\n", c.suppressed, c.checked, c.asOf.UTC().Format(time.RFC3339))
	return err
}
