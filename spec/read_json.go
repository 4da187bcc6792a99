package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// readJSON reads a manifest in JSON. It is not left to the YAML parser, which
// miscounts columns behind tabs and takes what is no JSON.
func readJSON(r *reader, data []byte) *node {
	p := &jsonReader{data: data, dec: json.NewDecoder(bytes.NewReader(data)), line: 1}
	p.dec.UseNumber()
	root := p.value(0)
	if p.fault == "" {
		at := p.next()
		if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
			p.fail(at, "the manifest is one JSON object; there is more behind it")
		}
	}
	if p.fault != "" {
		r.fault(p.faultAt, "", "%s", p.fault)
		return nil
	}
	return root
}

type jsonReader struct {
	data []byte
	dec  *json.Decoder

	// line and column belong to offset done, up to which the text is counted.
	done, line, column int
	tokens             int

	fault   string
	faultAt place
}

// value reads one value. It returns nil once there is a fault.
func (p *jsonReader) value(depth int) *node {
	at := p.next()
	if depth > maxDepth {
		return p.fail(at, tooDeep)
	}
	tok := p.token(at)
	if p.fault != "" {
		return nil
	}
	n := &node{at: at}
	switch v := tok.(type) {
	case nil:
	case bool:
		n.kind, n.text = boolNode, boolOf(v).text
	case json.Number:
		n.kind, n.text = numberNode, v.String()
	case string:
		n.kind, n.text = textNode, v
	case json.Delim:
		if v == '[' {
			n.kind = listNode
			for p.dec.More() {
				item := p.value(depth + 1)
				if item == nil {
					return nil
				}
				n.items = append(n.items, item)
			}
		} else {
			n.kind = mapNode
			for p.dec.More() {
				e := entry{keyAt: p.next()}
				e.key, _ = p.token(e.keyAt).(string)
				if p.fault != "" {
					return nil
				}
				if e.value = p.value(depth + 1); e.value == nil {
					return nil
				}
				n.entries = append(n.entries, e)
			}
		}
		if p.token(p.next()); p.fault != "" {
			return nil
		}
	}
	return n
}

// token reads the token that starts at at.
func (p *jsonReader) token(at place) json.Token {
	if p.tokens++; p.tokens > maxTokens {
		p.fail(at, tooManyParts)
		return nil
	}
	tok, err := p.dec.Token()
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		// Offset is behind the byte at fault.
		p.fail(p.place(max(int(syntax.Offset)-1, p.done)), "not JSON: "+syntax.Error())
	} else if err != nil {
		p.fail(p.place(len(p.data)), "not JSON: the text ends in the middle")
	}
	return tok
}

// next returns the place of the token that is read next.
func (p *jsonReader) next() place {
	i := int(p.dec.InputOffset())
	for i < len(p.data) && bytes.IndexByte([]byte(" \t\r\n,:"), p.data[i]) >= 0 {
		i++
	}
	return p.place(i)
}

// place turns an offset into a place. Offsets never go back.
func (p *jsonReader) place(offset int) place {
	offset = min(offset, len(p.data))
	for p.done < offset {
		if p.data[p.done] == '\n' {
			p.line, p.column = p.line+1, 0
		} else if utf8.RuneStart(p.data[p.done]) {
			p.column++
		}
		p.done++
	}
	return place{p.line, p.column + 1}
}

func (p *jsonReader) fail(at place, fault string) *node {
	if p.fault == "" {
		p.fault, p.faultAt = fault, at
	}
	return nil
}
