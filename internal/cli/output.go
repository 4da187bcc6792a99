package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// format says how results are printed. It is the value of --output.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatJSONL format = "jsonl"
	formatYAML  format = "yaml"
	formatName  format = "name"
)

func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON, formatJSONL, formatYAML, formatName:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("use table, json, jsonl, yaml or name")
}
func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

// view is a result in every form that it can be printed in.
type view struct {
	value any            // for json and yaml: a message of the API
	items []any          // for jsonl, where the result is a list
	names []string       // for name
	table func(t *table) // for table
}

func (c *cli) show(v view) error {
	switch c.format {
	case formatJSON:
		return c.writeJSON(v.value, "  ")
	case formatJSONL:
		if v.items == nil {
			return c.writeJSON(v.value, "")
		}
		for _, item := range v.items {
			if err := c.writeJSON(item, ""); err != nil {
				return err
			}
		}
		return nil
	case formatYAML:
		return c.writeYAML(v.value)
	case formatName:
		for _, name := range v.names {
			if _, err := fmt.Fprintln(c.Stdout, c.line(name)); err != nil {
				return err
			}
		}
		return nil
	}
	t := &table{}
	v.table(t)
	return c.writeTable(t)
}

func (c *cli) writeJSON(value any, indent string) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	_, err := c.Stdout.Write(harmlessJSON(b.Bytes()))
	return err
}

func (c *cli) writeYAML(value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	text, err := yaml.JSONToYAML(data)
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	if c.StdoutTerminal {
		text = []byte(harmlessText(string(text)))
	}
	_, err = c.Stdout.Write(text)
	return err
}

// line is a name as it is printed: exact in a pipe, harmless on a terminal.
func (c *cli) line(name string) string {
	if c.StdoutTerminal {
		return harmless(name)
	}
	return name
}

// writeBytes prints an object's bytes: exactly in a pipe, harmless on a terminal.
func (c *cli) writeBytes(data []byte) error {
	if !c.StdoutTerminal {
		_, err := c.Stdout.Write(data)
		return err
	}
	if !isText(data) {
		return usage("these %s are not text and could upset the terminal", size(int64(len(data)))).
			WithHint("send them elsewhere: `… > FILE`, or -o json")
	}
	text := harmlessText(string(data))
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := io.WriteString(c.Stdout, text)
	return err
}

// notice tells people at a terminal something; programs don't get it.
func (c *cli) notice(format string, args ...any) {
	if c.StderrTerminal {
		fmt.Fprintln(c.Stderr, c.paint(true, dim, harmless(fmt.Sprintf(format, args...))))
	}
}

// table collects rows of cells and prints them in columns.
type table struct {
	columns []string
	rows    [][]string
	lines   []string // instead of rows: text made harmless already, printed as it is
	next    *table   // another one below
}

func (t *table) header(columns ...string) { t.columns = columns }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) linef(format string, args ...any) {
	t.lines = append(t.lines, fmt.Sprintf(format, args...))
}

func (c *cli) writeTable(t *table) error {
	var b strings.Builder
	rows := t.rows
	if len(t.columns) > 0 && !c.noHeaders {
		rows = append([][]string{t.columns}, rows...)
	}
	var widths []int
	for i, row := range rows {
		rows[i] = append([]string(nil), row...)
		for j, cell := range row {
			rows[i][j] = harmless(cell)
			if j == len(widths) {
				widths = append(widths, 0)
			}
			widths[j] = max(widths[j], utf8.RuneCountInString(rows[i][j]))
		}
	}
	for _, row := range rows {
		for j, cell := range row {
			b.WriteString(c.paint(c.StdoutTerminal, colourOf(cell), cell))
			if j < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	for _, line := range t.lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	if t.next != nil {
		b.WriteByte('\n')
	}
	if _, err := io.WriteString(c.Stdout, b.String()); err != nil || t.next == nil {
		return err
	}
	return c.writeTable(t.next)
}

type colour string

const (
	plain  colour = ""
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	dim    colour = "2"
)

func (c *cli) paint(terminal bool, colour colour, text string) string {
	if !terminal || colour == plain || c.Getenv("NO_COLOR") != "" || c.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + string(colour) + "m" + text + "\x1b[0m"
}

func colourOf(cell string) colour {
	switch cell {
	case "completed", "succeeded", "live":
		return green
	case "failed", "away":
		return red
	case "running", "retrying", "queued", "draining":
		return yellow
	case "cancelled":
		return dim
	}
	return plain
}

// age tells how long ago t was, short.
func (c *cli) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return short(max(0, c.Now().Sub(t)))
}

// short rounds a duration to what people read.
func short(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	case n == 1:
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func anys[T any](items []T) []any {
	out := make([]any, 0, len(items))
	for _, item := range items {
		out = append(out, item)
	}
	return out
}

func origin(o wire.Origin) string {
	switch o.Kind {
	case "put":
		return fmt.Sprintf("put %s/%s", o.Bucket, o.Key)
	case "invoke":
		if f, ok := spec.FunctionOfInbox(o.Bucket); ok {
			return "invoke " + string(f)
		}
	case "delete":
		return fmt.Sprintf("deletion of %s/%s", o.Bucket, o.Key)
	case "child":
		return "child of " + string(o.Session)
	case "trigger":
		return fmt.Sprintf("trigger %s/%s", o.Bucket, o.Trigger)
	case "session":
		return "a put into it"
	case "rerun":
		return "rerun of " + string(o.Session)
	}
	return o.Kind
}
