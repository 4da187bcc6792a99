package spec

import (
	"strconv"
	"strings"

	"github.com/adhocore/gronx"
)

const (
	cronRule     = `write five fields: minute, hour, day of month, month, day of week, such as "0 6 * * 1-5"`
	maxCronBytes = 256
)

// cronField is one of the five fields of a cron.
type cronField struct {
	what        string
	least, most int
	names       []string // names[0] stands for least
}

var cronFields = [5]cronField{
	{what: "minute", most: 59},
	{what: "hour", most: 23},
	{what: "day of month", least: 1, most: 31},
	{what: "month", least: 1, most: 12,
		names: []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}},
	{what: "day of week", most: 7, names: []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}},
}

// ValidCron returns an error that says what is wrong with a cron of by_time. It
// takes five fields of numbers, names, ranges, steps and lists, of which there
// is a time at all: the 30th of February would never come, and what waits for
// it would never end.
func ValidCron(s string) error {
	if strings.HasPrefix(s, "@") {
		return Errorf(CodeInvalid, "bad cron %q: %s", clip(s), cronRule)
	}
	parts := strings.Fields(s)
	if len(parts) != len(cronFields) || len(s) > maxCronBytes {
		return Errorf(CodeInvalid, "bad cron %q: %s", clip(s), cronRule)
	}
	var sets [len(cronFields)]uint64
	for i, f := range cronFields {
		var problem string
		if sets[i], problem = f.parse(parts[i]); problem != "" {
			return Errorf(CodeInvalid, "bad cron %q: %s: %s", clip(s), f.what, problem)
		}
	}
	// A day of the week comes in every month. Without one, or with a step over all
	// of them, the day of the month has to come too.
	if strings.HasPrefix(parts[4], "*") && !hasDate(sets[2], sets[3]) {
		return Errorf(CodeInvalid, "bad cron %q: there is no such day in these months, it would never fire", clip(s))
	}
	// The library that computes the times has the last word.
	if !gronx.IsValid(s) {
		return Errorf(CodeInvalid, "bad cron %q: %s", clip(s), cronRule)
	}
	return nil
}

func hasDate(days, months uint64) bool {
	lengths := [...]int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
	for i, length := range lengths {
		inMonth := uint64(1)<<(length+1) - 1
		if months&(1<<(i+1)) != 0 && days&inMonth != 0 {
			return true
		}
	}
	return false
}

// parse returns the set of values that s names.
func (f cronField) parse(s string) (set uint64, problem string) {
	for part := range strings.SplitSeq(s, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		low, high, problem := f.span(span)
		if problem != "" {
			return 0, problem
		}
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > max(1, f.most) || !isDecimal(stepText) {
				return 0, "bad step " + strconv.Quote(clip(stepText)) + ": use 1 to " + strconv.Itoa(f.most)
			}
			if low == high {
				high = f.most
			}
		}
		for v := low; v <= high; v += step {
			set |= 1 << v
		}
	}
	return set, ""
}

func (f cronField) span(s string) (low, high int, problem string) {
	if s == "*" {
		return f.least, f.most, ""
	}
	from, to, ranged := strings.Cut(s, "-")
	if low, problem = f.value(from); problem != "" || !ranged {
		return low, low, problem
	}
	if high, problem = f.value(to); problem != "" {
		return 0, 0, problem
	}
	if high < low {
		return 0, 0, strconv.Quote(s) + " runs backwards"
	}
	return low, high, ""
}

func (f cronField) value(s string) (v int, problem string) {
	for i, name := range f.names {
		if strings.EqualFold(s, name) {
			return f.least + i, ""
		}
	}
	v, err := strconv.Atoi(s)
	if err != nil || strings.Trim(s, "0123456789") != "" || v < f.least || v > f.most {
		return 0, strconv.Quote(clip(s)) + " is not from " + strconv.Itoa(f.least) + " to " + strconv.Itoa(f.most)
	}
	return v, ""
}
