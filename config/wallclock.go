package config

import (
	"math/bits"
	"time"
)

// The years that a schedule knows.
const (
	firstYear = 1970
	lastYear  = 2099

	daySeconds = 86400
)

// yearSet has a bit for each year from firstYear.
type yearSet [3]uint64

func (s yearSet) has(year int) bool {
	i := year - firstYear
	return s[i>>6]>>(i&63)&1 != 0
}

// wallTimes is a set of wall-clock seconds. It knows no zone: a wall time is a
// date and a time of day, counted as seconds since 1970 as if it were UTC.
type wallTimes struct {
	sec, min, hour uint64 // bit v
	dom            uint64 // bits 1-31
	domLast        uint64 // bit n: n days before the last
	mon            uint64 // bits 1-12
	dow            uint64 // bits 0-6, Sunday first
	dowLast        uint64 // bits 0-6: the last such day of the month
	year           yearSet
	either         bool // crontab's rule: dom or dow is enough
	minStar        bool // the minute field has an item that begins with *

	// ready fills these in.
	first         int64 // earliest time of day that matches
	never, hourly bool  // no match at all; all 24 hours
}

const (
	allSixty   = 1<<60 - 1
	allHours   = 1<<24 - 1
	allDays    = 1<<32 - 2
	allMonths  = 1<<13 - 2
	allWeekday = 1<<7 - 1
)

// ready computes what every search needs again.
func (w wallTimes) ready() wallTimes {
	w.dow &= allWeekday
	w.dowLast &= allWeekday
	w.hourly = w.hour == allHours
	w.never = w.sec == 0 || w.min == 0 || w.hour == 0
	if w.never {
		return w
	}
	w.first = int64(bits.TrailingZeros64(w.hour)*3600 + bits.TrailingZeros64(w.min)*60 + bits.TrailingZeros64(w.sec))
	_, some := w.next(0)
	w.never = !some
	return w
}

// next returns the first matching wall time that is not before from.
func (w *wallTimes) next(from int64) (int64, bool) {
	if w.never {
		return 0, false
	}
	from = max(from, 0)
	day, second := from/daySeconds, from%daySeconds
	year, month, dom := time.Unix(from, 0).UTC().Date()
	if year > lastYear {
		return 0, false
	}

	monthStart := day - int64(dom-1)
	left := w.daysOf(year, month, monthStart) &^ (1<<dom - 1)
	if left>>dom&1 != 0 {
		if s, ok := w.timeOfDay(second); ok {
			return day*daySeconds + s, true
		}
		left &^= 1 << dom
	}
	for left == 0 {
		monthStart += int64(monthLength(year, month))
		if month++; month > time.December {
			month = time.January
			for year++; year <= lastYear && !w.year.has(year); year++ {
				monthStart += int64(yearLength(year))
			}
			if year > lastYear {
				return 0, false
			}
		}
		left = w.daysOf(year, month, monthStart)
	}
	return (monthStart+int64(bits.TrailingZeros64(left))-1)*daySeconds + w.first, true
}

// timeOfDay returns the first matching second of a day that is not before from.
func (w *wallTimes) timeOfDay(from int64) (int64, bool) {
	hour, minute, second := int(from/3600), int(from/60%60), int(from%60)
	if w.hour>>hour&1 != 0 {
		if w.min>>minute&1 != 0 {
			if s := w.sec >> second << second; s != 0 {
				return int64(hour*3600 + minute*60 + bits.TrailingZeros64(s)), true
			}
		}
		if m := w.min >> (minute + 1) << (minute + 1); m != 0 {
			return int64(hour*3600+bits.TrailingZeros64(m)*60) + w.first%60, true
		}
	}
	if h := w.hour >> (hour + 1) << (hour + 1); h != 0 {
		return int64(bits.TrailingZeros64(h)*3600) + w.first%3600, true
	}
	return 0, false
}

// daysOf returns the matching days of a month as bits 1-31; start is its first
// day counted from 1970-01-01.
func (w *wallTimes) daysOf(year int, month time.Month, start int64) uint64 {
	if w.mon>>month&1 == 0 || !w.year.has(year) {
		return 0
	}
	length := monthLength(year, month)
	all := uint64(1)<<(length+1) - 2

	dom := w.dom
	for last := w.domLast; last != 0; last &= last - 1 {
		dom |= 1 << (length - bits.TrailingZeros64(last))
	}
	first := int((start + 4) % 7) // 1970-01-01 was a Thursday
	dow := weekdays(w.dow, first)
	if w.dowLast != 0 {
		dow |= weekdays(w.dowLast, first) &^ (1<<(length-6) - 1)
	}
	if w.either {
		return (dom | dow) & all
	}
	return dom & dow & all
}

// weekdays spreads a set of weekdays over the days of a month whose first day is
// the weekday first.
func weekdays(set uint64, first int) uint64 {
	set = (set>>first | set<<(7-first)) & allWeekday
	return (set | set<<7 | set<<14 | set<<21 | set<<28) << 1
}

func yearLength(year int) int {
	if leap(year) {
		return 366
	}
	return 365
}

func monthLength(year int, month time.Month) int {
	switch month {
	case time.February:
		if leap(year) {
			return 29
		}
		return 28
	case time.April, time.June, time.September, time.November:
		return 30
	}
	return 31
}

func leap(year int) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }
