// Command wordcount holds the functions of an app that counts the words of a
// document: it splits the document, counts the parts side by side, and adds the
// counts up.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pheromone-run/pheromone/client/fn"
)

const maxParts = 32

func main() {
	fn.Handle("split", split)
	fn.Handle("count", count)
	fn.Handle("merge", merge)
	fn.Main()
}

// split cuts a document at line ends, and names the counts that merge has to
// wait for.
func split(ctx *fn.Context, in []fn.Object) error {
	lines := slices.Collect(bytes.Lines(in[0].Bytes()))
	size := max(1, (len(lines)+maxParts-1)/maxParts)
	var keys []string
	for part := range slices.Chunk(lines, size) {
		key := fmt.Sprintf("part-%02d", len(keys))
		if err := ctx.Put("parts", key, bytes.Join(part, nil)); err != nil {
			return err
		}
		keys = append(keys, key)
	}
	return ctx.Join("counts", "all-counted", keys...)
}

// count tallies one part. A word is a run of the letters a to z; capitals count
// as small ones.
func count(ctx *fn.Context, in []fn.Object) error {
	tally := map[string]int{}
	for word := range bytes.FieldsFuncSeq(in[0].Bytes(), notLetter) {
		tally[string(bytes.ToLower(word))]++
	}
	data, err := json.Marshal(tally)
	if err != nil {
		return err
	}
	return ctx.Put("counts", in[0].Key, data, fn.ContentType("application/json"))
}

func notLetter(r rune) bool { return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r) }

type entry struct {
	Word  string `json:"word"`
	Count int    `json:"count"`
}

// merge runs once, with the counts of all parts.
func merge(ctx *fn.Context, in []fn.Object) error {
	sum := map[string]int{}
	var result struct {
		Total int     `json:"total"`
		Top   []entry `json:"top"`
	}
	for _, part := range in {
		var tally map[string]int
		if err := json.Unmarshal(part.Bytes(), &tally); err != nil {
			return fn.Permanent(fmt.Errorf("%s is no tally: %w", part.Key, err))
		}
		for word, n := range tally {
			sum[word] += n
			result.Total += n
		}
	}
	for word, n := range sum {
		result.Top = append(result.Top, entry{word, n})
	}
	slices.SortFunc(result.Top, func(a, b entry) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Word, b.Word))
	})
	result.Top = result.Top[:min(10, len(result.Top))]
	data, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	return ctx.Output(append(data, '\n'), fn.ContentType("application/json"))
}
