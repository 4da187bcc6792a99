package spec

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// placeWithin returns where the character with number offset of a text's value
// stands in the manifest. However a text is written (plain, quoted, over several
// lines, as a block), the characters that are no space follow each other as they
// do in its value, so these are counted. What can't be found is at the start of
// the text.
func (r *reader) placeWithin(n *node, offset int) place {
	cursor, ok := r.open(n.at)
	if !ok {
		return n.at
	}
	for _, c := range strings.TrimSpace(n.text) {
		if offset--; offset < 0 {
			cursor.skipSpace()
			return cursor.at
		}
		if !unicode.IsSpace(c) && cursor.next() != c {
			return n.at
		}
	}
	return cursor.at
}

// open puts a cursor before the first character of the text that starts at at.
func (r *reader) open(at place) (*cursor, bool) {
	c := &cursor{rest: r.source, at: place{1, 1}}
	for c.at != at {
		if _, ok := c.take(); !ok || c.at.line > at.line {
			return nil, false
		}
	}
	switch first, _ := utf8.DecodeRuneInString(c.rest); first {
	case '"', '\'':
		c.quote = first
		c.take()
	case '|', '>':
		for line := c.at.line; c.at.line == line; {
			if _, ok := c.take(); !ok {
				return nil, false
			}
		}
	}
	return c, true
}

// cursor reads the characters of a text as they are written.
type cursor struct {
	rest  string
	at    place
	quote rune // 0 in a plain text or block
}

// take reads one character of the manifest.
func (c *cursor) take() (rune, bool) {
	if c.rest == "" {
		return 0, false
	}
	char, width := utf8.DecodeRuneInString(c.rest)
	c.rest = c.rest[width:]
	if char == '\n' {
		c.at = place{c.at.line + 1, 0}
	}
	c.at.column++
	return char, true
}

// next reads one character of the value that is no space, 0 at the end.
func (c *cursor) next() rune {
	for {
		char, ok := c.take()
		switch {
		case !ok:
			return 0
		case c.quote == '"' && char == '\\':
			if char = c.escape(); char == 0 {
				return 0
			}
		case c.quote == '\'' && char == '\'':
			c.take() // two stand for one
		}
		if !unicode.IsSpace(char) {
			return char
		}
	}
}

// skipSpace goes on to the next character that is no space, unless the text or
// its line ends before it.
func (c *cursor) skipSpace() {
	ahead := *c
	for {
		before := ahead
		char, ok := ahead.take()
		if !ok {
			return
		}
		if !unicode.IsSpace(char) {
			*c = before
			return
		}
	}
}

// escape reads what stands behind a backslash: a character, or a space for an
// escape that ends a line.
func (c *cursor) escape() rune {
	kind, _ := c.take()
	switch kind {
	case 'n', 't', 'r', 'v', 'f', '_', 'N', 'L', 'P', '\n', '\r':
		return ' '
	case 'x':
		return c.hex(2)
	case 'u':
		char := c.hex(4)
		if low, paired := strings.CutPrefix(c.rest, `\u`); paired && 0xd800 <= char && char < 0xdc00 && len(low) >= 4 {
			c.take()
			c.take()
			return 0x10000 + (char-0xd800)<<10 + (c.hex(4) - 0xdc00)
		}
		return char
	case 'U':
		return c.hex(8)
	}
	return kind
}

func (c *cursor) hex(digits int) rune {
	if len(c.rest) < digits {
		return 0
	}
	v, err := strconv.ParseUint(c.rest[:digits], 16, 32)
	if err != nil {
		return 0
	}
	for range digits {
		c.take()
	}
	return rune(v)
}
