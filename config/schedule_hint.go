package config

import (
	"fmt"
	"strings"
	"unicode"
)

func isBlank(c rune) bool { return unicode.IsSpace(c) }

// blank is the error for a blank inside an item.
func (r fieldRule) blank(item string) *FieldError {
	words := strings.Fields(item)
	if len(words) < 2 {
		// The blank stands at a comma of the list.
		hint := "leave the blank out"
		if len(words) == 1 {
			hint = "write " + words[0] + " without the blank"
		}
		return r.fail(fmt.Sprintf("%q has a blank in it", item), hint)
	}
	joined := strings.Join(words, "")
	if strings.ContainsAny(joined, "-/") {
		return r.fail(fmt.Sprintf("%q has a blank in it", item), "write "+joined)
	}
	return r.fail(fmt.Sprintf("%q has a blank in it", item), "a field is one value or a list with commas; a whole crontab line goes into the key schedule")
}

// nearby is the hint for a number outside the field.
func (r fieldRule) nearby(v int) string {
	switch {
	case r.name == "hour" && v == 24:
		return "write 0 for midnight"
	case r.max == 59 && v == 60:
		return "write 0"
	case r.name == "dom" && v == 0:
		return "write 1 for the first day of the month, L for the last"
	case r.name == "dow":
		return "write 0-6 or sun-sat; 0 and 7 are Sunday"
	case r.name == "mon":
		return "write 1-12 or jan-dec"
	}
	return "write a number from " + r.limits()
}

// strange is the error for what is neither a number nor a name. Notations of
// other crons are told what they are called here.
func (r fieldRule) strange(text, item string) *FieldError {
	day, _, nth := strings.Cut(item, "#")
	upper := strings.ToUpper(item)
	switch {
	case strings.HasPrefix(item, "@"):
		return r.fail(fmt.Sprintf("%q is not allowed in a field", item), "write schedule: '"+item+"' instead of the fields")
	case strings.HasPrefix(upper, "TZ=") || strings.HasPrefix(upper, "CRON_TZ="):
		return r.fail(fmt.Sprintf("%q is not allowed in a field", item), "write timezone: as a key of its own")
	case strings.ContainsAny(item, "'\""):
		return r.fail(fmt.Sprintf("%q has a quote in it", item), "quote the whole value once")
	case strings.Contains(item, "**"):
		return r.fail(fmt.Sprintf("%q is not understood", item), "write *")
	case strings.HasPrefix(item, "*"):
		return r.fail(fmt.Sprintf("%q is not understood", item), "write * or */n")
	case r.name == "dow" && nth:
		weeks := map[string]string{"1": "1-7", "2": "8-14", "3": "15-21", "4": "22-28"}
		if week := weeks[item[len(day)+1:]]; week != "" {
			return r.fail(fmt.Sprintf("%q is not understood", item), "write dow: '"+day+"' and dom: '"+week+"', both must match")
		}
		return r.fail(fmt.Sprintf("%q is not understood", item), "write L"+day+" for the last one of the month, or dow together with a range of days in dom")
	case r.name == "dom" && strings.HasSuffix(upper, "W"):
		return r.fail(fmt.Sprintf("%q is not understood", item), "the nearest weekday can't be said here; write a day and dow: 1-5, both must match")
	case upper == "H" || strings.HasPrefix(upper, "H/") || strings.HasPrefix(upper, "H("):
		return r.fail(fmt.Sprintf("%q is not understood", item), "write "+r.limits()+" or *; splay: spreads the starts")
	case upper == "R":
		return r.fail(fmt.Sprintf("%q is not understood", item), "write a number from "+r.limits()+"; splay: spreads the starts")
	case strings.HasSuffix(upper, "L") && digits(item[:len(item)-1]) && r.name == "dow":
		return r.fail(fmt.Sprintf("%q is not understood", item), "write L"+item[:len(item)-1])
	case text == "" && strings.HasPrefix(item, "-"):
		return r.fail(fmt.Sprintf("%q is not understood", item), "numbers are not negative; a range is written 1-5")
	case text == "":
		return r.fail(fmt.Sprintf("%q is not complete", item), "write a value, a range such as 1-5, or *")
	}
	for _, name := range r.names {
		if len(text) > 3 && strings.HasPrefix(strings.ToLower(text), name) {
			return r.fail(fmt.Sprintf("%q is not a name", text), "write "+name)
		}
	}
	if r.names != nil {
		return r.fail(fmt.Sprintf("%q is neither a number nor a name", text),
			fmt.Sprintf("write %s or %s-%s", r.limits(), r.names[0], r.names[len(r.names)-1]))
	}
	return r.fail(fmt.Sprintf("%q is not a number", text), "write a number from "+r.limits())
}
