package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailriver/pkg/config"
	"mailriver/pkg/event"
	"mailriver/pkg/terminal"
	"mailriver/pkg/unsubscribe"
	"mailriver/services/assembly"
)

// maxToldLines is how many bad lines of a file are told one by one.
const maxToldLines = 20

func (c *command) unsubscribeLink() *cobra.Command {
	var (
		link                  unsubscribe.Link
		address, file, output string
		expires               time.Duration
	)
	cmd := &cobra.Command{
		Use:   "unsubscribe-link",
		Short: "Make links by which recipients opt out with one click",
		Long: "Makes the link of one address, or of each line of a file, and the two headers with which a message\n" +
			"offers it (RFC 8058). The link holds address and scope, encrypted with the first of unsubscribe.keys;\n" +
			"nothing is stored. The receiver answers it, at unsubscribe.base_url.\n\n" +
			"The scope says what is opted out of: all marketing mail (account, without an id), all mail (address), or\n" +
			"one list, stream, group, topic, tag, domain or subaccount by its --scope-id.",
		Example: "  mailriver unsubscribe-link --address ann@example.com\n" +
			"  mailriver unsubscribe-link --address ann@example.com --scope-kind list --scope-id weekly --output json\n" +
			"  mailriver unsubscribe-link --file addresses.txt --output csv > links.csv",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			usage := func(err error) error { return usageError{cmd.CommandPath(), err} }
			format, err := terminal.ParseFormat(output)
			if err != nil {
				return usage(err)
			}
			if (address == "") == (file == "") {
				return usage(errors.New("one of --address and --file is required"))
			}
			if expires < 0 {
				return usage(fmt.Errorf("expires: is %s, must not be negative", expires))
			}
			link.IssuedAt = time.Now().UTC().Truncate(time.Second)
			if expires > 0 {
				link.ExpiresAt = link.IssuedAt.Add(expires).Truncate(time.Second)
			}
			link.Address = "ann@example.com" // anything good: what else is wrong holds for every address
			if err := link.Validate(); err != nil {
				return usage(err)
			}
			cfg, err := c.load()
			if err != nil {
				return err
			}
			maker, err := newLinkMaker(cfg, link)
			if err != nil {
				return err
			}
			if file == "" {
				row, err := maker.row(address)
				if err != nil {
					return usage(err)
				}
				return writeLinks(cmd.OutOrStdout(), format, [][]any{row})
			}
			lines, err := readLines(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			rows, told := maker.rows(cmd, lines)
			return errors.Join(writeLinks(cmd.OutOrStdout(), format, rows), told)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&address, "address", "", "make the link of this address")
	flags.StringVar(&file, "file", "", "make the links of the addresses in this file, one a line (-: standard input)")
	flags.StringVar(&link.ScopeKind, "scope-kind", event.ScopeAccount,
		"what is opted out of: account, address, list, stream, group, topic, tag, domain or subaccount")
	flags.StringVar(&link.ScopeID, "scope-id", "", "which list, stream, ...; required with all kinds but account and address")
	flags.DurationVar(&expires, "expires", 0, "how long the link opens, such as 8760h (0: for ever)")
	flags.StringVar(&output, "output", "table", "table (the headers as a message has them), json or csv")
	return cmd
}

// linkMaker makes the links that differ in their address.
type linkMaker struct {
	cfg  unsubscribe.Config
	keys *unsubscribe.Keys
	link unsubscribe.Link
}

func newLinkMaker(cfg assembly.Config, link unsubscribe.Link) (linkMaker, error) {
	keys, err := cfg.UnsubscribeKeys()
	if err != nil {
		return linkMaker{}, fmt.Errorf("%w: %w", assembly.ErrConfig, err)
	}
	var problems config.Problems
	problems.Must(keys != nil, "unsubscribe.keys: at least one is required to make links; `openssl rand -base64 32` makes one")
	problems.Must(cfg.Unsubscribe.BaseURL != "", "unsubscribe.base_url: is required to make links")
	if err := problems.Err(); err != nil {
		return linkMaker{}, fmt.Errorf("%w: %w", assembly.ErrConfig, err)
	}
	return linkMaker{cfg.Unsubscribe, keys, link}, nil
}

// linkColumns are the names of what row returns.
func linkColumns() []string {
	return []string{"address", "url", "list_unsubscribe", "list_unsubscribe_post"}
}

func (m linkMaker) row(address string) ([]any, error) {
	link := m.link
	link.Address = strings.TrimSpace(address)
	token, err := m.keys.Token(link)
	if err != nil {
		return nil, err
	}
	headers, err := m.cfg.Headers(token)
	if err != nil {
		return nil, err
	}
	return []any{link.Address, headers.URL, headers.List, headers.Post}, nil
}

// rows makes the links of all lines that hold an address. Those that hold
// something else are told by their number; empty ones are nothing.
func (m linkMaker) rows(cmd *cobra.Command, lines []string) (rows [][]any, told error) {
	progress := terminal.NewProgress(cmd.ErrOrStderr(), int64(len(lines)), "making links", "lines")
	defer progress.Done()
	var problems config.Problems
	bad := 0
	for i, line := range lines {
		progress.Add(1)
		if strings.TrimSpace(line) == "" {
			continue
		}
		row, err := m.row(line)
		if err != nil {
			if bad++; bad <= maxToldLines {
				problems.Add(config.Prefix(fmt.Sprintf("line %d: ", i+1), err))
			}
			continue
		}
		rows = append(rows, row)
	}
	problems.Must(bad <= maxToldLines, "and %d lines more", bad-maxToldLines)
	return rows, problems.Err()
}

func readLines(stdin io.Reader, path string) ([]string, error) {
	from := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // it was only read
		from = file
	}
	var lines []string
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
	}
	return lines, nil
}

// writeLinks writes a table as blocks of lines: a table that is cut to the width
// of a terminal would cut the links.
func writeLinks(w io.Writer, format terminal.Format, rows [][]any) error {
	if format != terminal.Table {
		return terminal.Write(w, format, terminal.List{Columns: linkColumns(), Rows: rows})
	}
	out := bufio.NewWriter(w)
	for i, row := range rows {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s\n%s\nList-Unsubscribe: %s\nList-Unsubscribe-Post: %s\n",
			terminal.Text(row[0]), row[1], row[2], row[3])
	}
	return out.Flush()
}
