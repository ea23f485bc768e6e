package config

import (
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// maxWords is how many parts a list in words may have before fields say it better.
const maxWords = 8

// spans writes values as "1 to 5, 7 and 9", or "" if that would be long.
func spans(list []int, name func(int) string) string {
	var parts []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if j-i < 2 {
			parts = append(parts, name(list[i]))
			i++
			continue
		}
		parts = append(parts, name(list[i])+" to "+name(list[j]))
		i = j + 1
	}
	if len(parts) > maxWords {
		return ""
	}
	return join(parts)
}

func join(parts []string) string {
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}

// stride reports whether values go through the whole of 0 to length-1 in equal
// steps that fit into it, so that "every n" is the truth.
func stride(list []int, length int) (from, step int, ok bool) {
	if len(list) < 2 {
		return 0, 0, false
	}
	from, step = list[0], list[1]-list[0]
	if step < 2 || length%step != 0 || len(list) != length/step || from >= step {
		return 0, 0, false
	}
	for i, v := range list {
		if v != from+i*step {
			return 0, 0, false
		}
	}
	return from, step, true
}

func values(set uint64) []int {
	var list []int
	for ; set != 0; set &= set - 1 {
		list = append(list, bits.TrailingZeros64(set))
	}
	return list
}

// weekdayValues lists a week from Monday, 1, to Sunday, 7.
func weekdayValues(set uint64) []int { return values((set | set&1<<7) &^ 1) }

func weekdayName(v int) string { return time.Weekday(v % 7).String() }

func plainNumber(v int) string { return strconv.Itoa(v) }

func ordinal(v int) string { return strconv.Itoa(v) + suffix(v) }

func suffix(v int) string {
	if v/10%10 != 1 {
		switch v % 10 {
		case 1:
			return "st"
		case 2:
			return "nd"
		case 3:
			return "rd"
		}
	}
	return "th"
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// also is text, unless the part that it is made of could not be said.
func also(part, text string) string {
	if part == "" {
		return ""
	}
	return text
}
