package spec

import (
	"math"
	"strconv"
	"strings"
	"time"
)

const durationRule = `durations are written as "500ms", "2s" or "1h30m" (units h, m, s, ms)`

// durationUnits are in the order in which they stand in a text.
var durationUnits = []struct {
	name string
	unit time.Duration
}{
	{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// ParseDuration reads a duration of manifests, query strings and the command
// line: numbers with the units h, m, s and ms, larger units first, each at most
// once, as in "500ms", "2s", "1h30m" or "1.5s". It has whole milliseconds and
// is never negative. "0" needs no unit.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	var total time.Duration
	units := durationUnits
	rest := s
	for rest != "" {
		number, after := cutNumber(rest)
		if number == "" {
			return 0, Errorf(CodeInvalid, "bad duration %q: %s", clip(s), durationRule)
		}
		name, remaining := cutUnit(after)
		if name == "" {
			return 0, Errorf(CodeInvalid, "%q has no unit: %s", clip(s), durationRule)
		}
		i := 0
		for i < len(units) && units[i].name != name {
			i++
		}
		if i == len(units) {
			return 0, Errorf(CodeInvalid, "bad duration %q: %s", clip(s), durationRule)
		}
		part, ok := scaled(number, units[i].unit)
		if !ok {
			return 0, Errorf(CodeInvalid, "bad duration %q: durations have whole milliseconds and at most 292 years", clip(s))
		}
		if total += part; total < 0 {
			return 0, Errorf(CodeInvalid, "bad duration %q: durations have at most 292 years", clip(s))
		}
		units, rest = units[i+1:], remaining
	}
	if s == "" {
		return 0, Errorf(CodeInvalid, "an empty duration: %s", durationRule)
	}
	return total, nil
}

// FormatDuration writes d as ParseDuration reads it, without units that are
// zero: "1h30m". What is below a millisecond is cut off.
func FormatDuration(d time.Duration) string {
	if d < time.Millisecond {
		return "0s"
	}
	var out strings.Builder
	for _, u := range durationUnits {
		if n := d / u.unit; n > 0 {
			out.WriteString(strconv.FormatInt(int64(n), 10))
			out.WriteString(u.name)
			d -= n * u.unit
		}
	}
	return out.String()
}

const sizeRule = `sizes are written as "64KiB" or "256MiB" (units B, KiB, MiB, GiB)`

var sizeUnits = []struct {
	name string
	unit int64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1},
}

// ParseSize reads a number of bytes: a whole number and one of the units B, KiB,
// MiB and GiB, as in "256MiB".
func ParseSize(s string) (int64, error) {
	number, name := cutNumber(s)
	if number != "" && name == "" {
		return 0, Errorf(CodeInvalid, "%q has no unit: %s", clip(s), sizeRule)
	}
	for _, u := range sizeUnits {
		if u.name != name {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > math.MaxInt64/u.unit {
			break
		}
		return n * u.unit, nil
	}
	return 0, Errorf(CodeInvalid, "bad size %q: %s", clip(s), sizeRule)
}

// FormatSize writes n as ParseSize reads it, in the largest unit that leaves no
// fraction.
func FormatSize(n int64) string {
	for _, u := range sizeUnits {
		if n >= u.unit && n%u.unit == 0 {
			return strconv.FormatInt(n/u.unit, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

func cutNumber(s string) (number, rest string) {
	i := 0
	for i < len(s) && (s[i] == '.' || '0' <= s[i] && s[i] <= '9') {
		i++
	}
	return s[:i], s[i:]
}

func cutUnit(s string) (unit, rest string) {
	i := 0
	for i < len(s) && s[i] != '.' && (s[i] < '0' || s[i] > '9') {
		i++
	}
	return s[:i], s[i:]
}

// scaled returns number·unit if it is a whole number of milliseconds in range.
func scaled(number string, unit time.Duration) (time.Duration, bool) {
	whole, fraction, dotted := strings.Cut(number, ".")
	if dotted && fraction == "" || whole == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return 0, false
	}
	d := time.Duration(n) * unit
	// The smallest step that a digit behind the dot can name is a thousandth of a
	// second: with unit h, 0.001h still is a whole number of milliseconds.
	for scale := unit; fraction != ""; fraction = fraction[1:] {
		digit := fraction[0]
		if digit < '0' || digit > '9' {
			return 0, false
		}
		if digit != '0' && (scale%10 != 0 || scale/10*time.Duration(digit-'0')%time.Millisecond != 0) {
			return 0, false
		}
		scale /= 10
		d += scale * time.Duration(digit-'0')
	}
	return d, d >= 0
}
