package cli

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// harmless makes text that comes from data fit for one line of a terminal: what
// would move the cursor, colour, hide or reorder text is written out instead.
func harmless(s string) string { return escape(s, false) }

// harmlessText is harmless for text of several lines.
func harmlessText(s string) string { return escape(s, true) }

func escape(s string, lines bool) string {
	if strings.IndexFunc(s, func(r rune) bool { return dangerous(r, lines) }) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\n' && !lines:
			b.WriteString(`\n`)
		case r == '\t' && !lines:
			b.WriteString(`\t`)
		case r == '\r' && lines && strings.HasPrefix(s, "\r\n"): // a line's end as others write it
		case !dangerous(r, lines):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// harmlessJSON escapes in JSON what its encoder lets through. Such characters are
// only ever part of strings there, so it stays the same JSON.
func harmlessJSON(data []byte) []byte {
	if bytes.IndexFunc(data, func(r rune) bool { return dangerous(r, true) }) < 0 {
		return data
	}
	var b bytes.Buffer
	for _, r := range string(data) {
		if dangerous(r, true) {
			if r > 0xffff { // as a pair of surrogates
				r -= 0x10000
				fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
				continue
			}
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.Bytes()
}

func dangerous(r rune, lines bool) bool {
	if lines && (r == '\n' || r == '\t') {
		return false
	}
	// Cf holds the marks that reorder text and those that can't be seen, Zl and Zp
	// line ends of their own.
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// isText says whether data can be shown on a terminal at all.
func isText(data []byte) bool {
	return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0
}
