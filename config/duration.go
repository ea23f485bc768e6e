package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const durationHint = "write seconds (90) or a duration such as 90s, 5m, 2h30m, 1d"

func durationUnit(name string) (time.Duration, bool) {
	switch name {
	case "ms":
		return time.Millisecond, true
	case "s":
		return time.Second, true
	case "m":
		return time.Minute, true
	case "h":
		return time.Hour, true
	case "d":
		return 24 * time.Hour, true
	case "w":
		return 7 * 24 * time.Hour, true
	}
	return 0, false
}

// ParseDuration reads "90", "90s", "5m", "2h30m", "1.5h", "1d", "2w": seconds
// where no unit is given. Negative durations are errors.
func ParseDuration(s string) (time.Duration, error) {
	rest := strings.TrimSpace(s)
	switch {
	case rest == "":
		return 0, fmt.Errorf("a duration is missing; %s", durationHint)
	case rest[0] == '-':
		return 0, fmt.Errorf("duration %q is negative; %s", cut(s), durationHint)
	}
	var total float64
	for first := true; rest != ""; first = false {
		n := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if n < 0 {
			n = len(rest)
		}
		number, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, notADuration(s)
		}
		rest = rest[n:]
		u := strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' })
		if u < 0 {
			u = len(rest)
		}
		unit, ok := durationUnit(rest[:u])
		if u == 0 && first && rest == "" {
			unit, ok = time.Second, true
		}
		if !ok {
			return 0, notADuration(s)
		}
		rest = rest[u:]
		total += number * float64(unit)
		// A float counts nanoseconds exactly for the first 104 days only, but
		// nobody writes nanoseconds beside days.
		if total >= math.MaxInt64 {
			return 0, fmt.Errorf("duration %q is too long; the longest is 292 years", cut(s))
		}
	}
	return time.Duration(math.Round(total)), nil
}

func notADuration(s string) error {
	return fmt.Errorf("%q is not a duration; %s", cut(s), durationHint)
}

var byteUnits = lazy[map[string]int64]{make: func() map[string]int64 {
	return map[string]int64{
		"": 1, "b": 1,
		"k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tib": 1 << 40,
		"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	}
}}

// parseBytes reads an amount of bytes: 1048576, 512K, 100MiB, 1.5G, 10MB.
func parseBytes(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	n := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if n < 0 {
		n = len(s)
	}
	number, err := strconv.ParseFloat(s[:n], 64)
	unit, ok := byteUnits.get()[strings.ToLower(strings.TrimSpace(s[n:]))]
	if err != nil || !ok || number*float64(unit) >= math.MaxInt64 {
		return 0, false
	}
	return int64(number * float64(unit)), true
}
