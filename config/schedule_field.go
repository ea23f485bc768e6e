package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// fieldRule is what may stand in one field.
type fieldRule struct {
	name     string
	word     string // what one of its values is
	min, max int    // what may be written
	top      int    // where * and value/n end: max, but for dow, where 7 is 0 again
	base     int    // the value of bit 0
	preset   string // what an empty field means; "" = it must be written
	names    []string
	first    int // the value of names[0]
}

var fieldRules = [...]fieldRule{
	{name: "sec", word: "second", max: 59, top: 59, preset: "0"},
	{name: "min", word: "minute", max: 59, top: 59},
	{name: "hour", word: "hour", max: 23, top: 23},
	{name: "dom", word: "day of the month", min: 1, max: 31, top: 31},
	{name: "mon", word: "month", min: 1, max: 12, top: 12, first: 1,
		names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{name: "dow", word: "day of the week", max: 7, top: 6, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	{name: "year", word: "year", min: firstYear, max: lastYear, top: lastYear, base: firstYear, preset: "*"},
}

// fieldSet is what one field allows.
type fieldSet struct {
	bits yearSet // bit v-base; only year needs more than the first word
	last uint64  // dom: bit n, n days before the last; dow: bit d, the last d of the month
	star bool    // an item begins with *
}

func (s *fieldSet) add(r fieldRule, from, to, step int) {
	for v := from; v <= to; v += step {
		bit := v - r.base
		s.bits[bit>>6] |= 1 << (bit & 63)
	}
}

// parse reads a field: a list of items, blanks around it dropped.
func (r fieldRule) parse(text string) (fieldSet, *FieldError) {
	var set fieldSet
	list := strings.TrimSpace(text)
	if list == "" {
		return set, r.fail("is missing", "write '*' for every "+r.word)
	}
	at := utf8.RuneCountInString(text[:strings.Index(text, list)])
	for item := range strings.SplitSeq(list, ",") {
		if err := r.item(item, &set); err != nil {
			err.Offset += at
			return set, err
		}
		at += utf8.RuneCountInString(item) + 1
	}
	return set, nil
}

// item reads one item of the list into set.
func (r fieldRule) item(item string, set *fieldSet) *FieldError {
	body, step, stepped := strings.Cut(item, "/")
	switch {
	case item == "":
		return r.fail("an item of the list is empty", "leave out the extra comma")
	case strings.ContainsFunc(item, isBlank):
		return r.blank(item)
	case body == "?" && (r.name != "dom" && r.name != "dow" || stepped):
		return r.fail("'?' is only allowed alone in dom and dow", "here write "+strings.Replace(item, "?", "*", 1))
	case body == "?":
		set.add(r, r.min, r.top, 1)
		return nil
	case body[:min(1, len(body))] == "L" || body[:min(1, len(body))] == "l":
		return r.lastDays(item, set)
	case body[:min(1, len(body))] == "Z" || body[:min(1, len(body))] == "z":
		return r.beforeLast(item, set)
	}

	from, to := r.min, r.top
	set.star = set.star || strings.HasPrefix(item, "*")
	if body != "*" {
		low, high, ranged := strings.Cut(body, "-")
		var err *FieldError
		if from, err = r.value(low, item); err != nil {
			return err
		}
		if ranged {
			if to, err = r.end(low, high, from, item); err != nil {
				return err
			}
		} else if !stepped {
			to = from
		}
	}
	if !stepped {
		set.add(r, from, to, 1)
		return nil
	}
	n, err := r.step(step, from, body)
	if err != nil {
		err.Offset = utf8.RuneCountInString(body) + 1
		return err
	}
	set.add(r, from, to, n)
	return nil
}

// end reads what stands behind the hyphen of a range.
func (r fieldRule) end(low, high string, from int, item string) (int, *FieldError) {
	to, err := r.value(high, item)
	if err == nil && r.name == "dow" && to == 0 {
		to = 7 // a week may end on Sunday: sat-sun
	}
	if err == nil && from > to {
		err = r.fail(fmt.Sprintf("range %q runs backwards", low+"-"+high), r.forwards(low, high, from, to))
		return 0, err
	}
	if err != nil {
		err.Offset = utf8.RuneCountInString(low) + 1
	}
	return to, err
}

// forwards is what a range that runs backwards was probably meant to be.
func (r fieldRule) forwards(low, high string, from, to int) string {
	span := func(a, b string, one bool) string {
		if one {
			return a
		}
		return a + "-" + b
	}
	start, stop := strconv.Itoa(r.min), strconv.Itoa(r.max)
	switch {
	case r.name == "year":
		return "write " + high + "-" + low
	case r.name == "dow":
		// Sunday is the 7 that ends the first part, so the second begins with Monday.
		start = "1"
		if !digits(low) {
			start, stop = "mon", "sun"
		}
	case r.names != nil && !digits(low):
		start, stop = r.names[0], r.names[len(r.names)-1]
	}
	second := r.min
	if r.name == "dow" {
		second = 1
	}
	return "write " + span(low, stop, from == r.max) + "," + span(start, high, to == second)
}

// step reads the number behind a slash.
func (r fieldRule) step(text string, from int, body string) (int, *FieldError) {
	if !digits(text) {
		if text == "" {
			return 0, r.fail("the step after '/' is missing", "write "+body+" or "+body+"/2")
		}
		return 0, r.fail(fmt.Sprintf("step %q is not a number", text), "write a number, such as "+body+"/2")
	}
	n := number(text)
	if n < 1 || n > r.max {
		return 0, r.fail(fmt.Sprintf("step %s is out of range 1-%d", text, r.max), "")
	}
	if from+n > r.max {
		return 0, r.fail(fmt.Sprintf("step %d from %d leads past %d", n, from, r.max), "write "+strconv.Itoa(from)+" without a step")
	}
	return n, nil
}

// value reads a number or a name; item is what it stands in, for the message.
func (r fieldRule) value(text, item string) (int, *FieldError) {
	for i, name := range r.names {
		if strings.EqualFold(text, name) {
			return r.first + i, nil
		}
	}
	if !digits(text) {
		return 0, r.strange(text, item)
	}
	v := number(text)
	if v < r.min || v > r.max {
		return 0, r.fail(fmt.Sprintf("%s is out of range %d-%d", text, r.min, r.max), r.nearby(v))
	}
	return v, nil
}

// lastDays reads L of dom, Lday and Lday-day of dow.
func (r fieldRule) lastDays(item string, set *fieldSet) *FieldError {
	switch {
	case r.name == "dow" && len(item) == 1:
		return r.fail("'L' alone is only allowed in dom", "here write L0-L6")
	case r.name == "dow":
		low, high, ranged := strings.Cut(item[1:], "-")
		from, err := r.value(low, item)
		if err != nil {
			err.Offset++
			return err
		}
		to := from
		if ranged {
			high = strings.TrimPrefix(strings.TrimPrefix(high, "L"), "l")
			if !strings.EqualFold(item, "L"+low+"-"+high) {
				return r.fail(fmt.Sprintf("%q has a second 'L'", item), "write L"+low+"-"+high)
			}
			if to, err = r.end(low, high, from, item); err != nil {
				if strings.HasPrefix(err.Hint, "write ") && strings.HasSuffix(err.Text, "backwards") {
					err.Hint = "write L" + strings.Replace(strings.TrimPrefix(err.Hint, "write "), ",", ",L", 1)
				}
				err.Offset++
				return err
			}
		}
		for d := from; d <= to; d++ {
			set.last |= 1 << d
		}
		return nil
	case r.name == "dom" && len(item) == 1:
		set.last |= 1
		return nil
	case r.name == "dom" && strings.HasPrefix(item, "L-"), r.name == "dom" && strings.HasPrefix(item, "l-"):
		return r.fail(fmt.Sprintf("%q is not understood", item), "days before the last are written Z"+item[2:])
	case r.name == "dom":
		return r.fail(fmt.Sprintf("%q is only allowed in dow", item), "here write L, the last day of the month")
	}
	return r.fail("'L' is only allowed in dom and dow", "write a number from "+r.limits())
}

// beforeLast reads Zn and Zn-m of dom.
func (r fieldRule) beforeLast(item string, set *fieldSet) *FieldError {
	if r.name != "dom" {
		return r.fail("'Z' is only allowed in dom", "write a number from "+r.limits())
	}
	low, high, ranged := strings.Cut(item[1:], "-")
	if !ranged {
		high = low
	}
	if !digits(low) || !digits(high) || number(low) > 7 || number(high) > 7 {
		return r.fail(fmt.Sprintf("%q is not understood", item), "write Z0-Z7: that many days before the last day of the month, or a range such as Z0-3")
	}
	if number(low) > number(high) {
		return r.fail(fmt.Sprintf("range %q runs backwards", item), "write Z"+high+"-"+low)
	}
	for d := number(low); d <= number(high); d++ {
		set.last |= 1 << d
	}
	return nil
}

func (r fieldRule) fail(text, hint string) *FieldError {
	return &FieldError{Field: r.name, Text: text, Hint: hint}
}

func (r fieldRule) limits() string { return fmt.Sprintf("%d-%d", r.min, r.max) }

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// number reads digits, always decimal; what is too long for any field is 1<<20.
func number(s string) int {
	s = strings.TrimLeft(s, "0")
	if len(s) > 6 {
		return 1 << 20
	}
	n := 0
	for i := range len(s) {
		n = n*10 + int(s[i]-'0')
	}
	return n
}
