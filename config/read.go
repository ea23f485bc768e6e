package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Readers of one value. Each says what is wrong at the value's position and
// returns ok only where there is a value to use; a key that is there but empty
// counts as absent, with a warning.

// scalar is the way into every reader of a single value.
func (s *scope) scalar(key string, v *value, want string) bool {
	switch {
	case v.kind == listKind:
		s.fail(v, key, "is a list, and must be "+want, "")
	case v.kind == mappingKind:
		s.fail(v, key, "is a mapping, and must be "+want, "")
	case isNull(v):
		s.warn(v, key, "is empty, as if it were not there", "give it a value or take it out")
	default:
		return true
	}
	return false
}

// text reads a string. Numbers are taken as they are written; a boolean is an
// error, because nobody can tell what was meant.
func (s *scope) text(key string, v *value) (string, bool) {
	if !s.scalar(key, v, "text") {
		return "", false
	}
	switch v.meaning() {
	case boolMeaning:
		s.fail(v, key, v.text+" is a YAML boolean, put it in quotes", "")
		return "", false
	case intMeaning, floatMeaning:
		if was := pythonText(v); was != v.text {
			s.warn(v, key, fmt.Sprintf("%s is a number to YAML (%s); taken as the text %q", v.text, was, v.text), "quote it")
		}
	}
	if strings.ContainsRune(v.text, 0) {
		s.fail(v, key, "holds a NUL character", "take it out")
		return "", false
	}
	return v.text, true
}

// boolean reads yes, no, on, off, true and false as YAML 1.1 does.
func (s *scope) boolean(key string, v *value) (is, ok bool) {
	if !s.scalar(key, v, "true or false") {
		return false, false
	}
	is, ok = yamlBool(v.text)
	switch {
	case ok && v.plain:
	case ok:
		s.warn(v, key, fmt.Sprintf("%q is text; taken as %t", v.text, is), "write it without quotes")
	case v.plain && (v.text == "0" || v.text == "1"):
		is, ok = v.text == "1", true
		s.warn(v, key, fmt.Sprintf("%s is a number; taken as %t", v.text, is), fmt.Sprintf("write %t", is))
	default:
		s.fail(v, key, fmt.Sprintf("%q is neither true nor false", cut(v.text)), "write true or false")
	}
	return is, ok
}

// number gives the digits of a plain YAML 1.1 integer, with a warning where they
// are not the ones written; other text comes back as it is.
func (s *scope) number(key string, v *value) string {
	if isDecimal(v.text) {
		return v.text
	}
	if v.meaning() != intMeaning {
		return strings.TrimSpace(v.text)
	}
	n, _ := yamlInt(v.text)
	if was := n.String(); was != v.text {
		s.warn(v, key, fmt.Sprintf("%s is %s to YAML", v.text, was), fmt.Sprintf("write %s", was))
		return was
	}
	return v.text
}

func (s *scope) integer(key string, v *value, least, most int) (int, bool) {
	want := "a whole number"
	if !s.scalar(key, v, want) {
		return 0, false
	}
	n, err := strconv.Atoi(s.number(key, v))
	switch {
	case err != nil:
		s.fail(v, key, fmt.Sprintf("%q is not a whole number", cut(v.text)), fmt.Sprintf("write a number from %d", least))
	case n < least && least == 0:
		s.fail(v, key, fmt.Sprintf("%d is negative", n), "write 0 or more")
	case n < least || n > most:
		s.fail(v, key, fmt.Sprintf("%d is out of range %d-%d", n, least, most), "")
	default:
		return n, true
	}
	return 0, false
}

// size reads a number or a share of a total.
func (s *scope) size(key string, v *value) (Size, bool) {
	if !s.scalar(key, v, "a number or a share such as 25%") {
		return Size{}, false
	}
	text := s.number(key, v)
	share, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(strings.TrimSpace(share))
	switch {
	case err != nil:
		s.fail(v, key, fmt.Sprintf("%q is neither a number nor a share", cut(v.text)), "write a number (10) or a share (25%)")
	case n < 0:
		s.fail(v, key, text+" is negative", "write 0 or more")
	case percent && (n < 1 || n > 100):
		s.fail(v, key, text+" is out of range 1%-100%", "")
	case percent:
		return Size{Percent: n}, true
	default:
		return Size{N: n}, true
	}
	return Size{}, false
}

func (s *scope) duration(key string, v *value) (time.Duration, bool) {
	if !s.scalar(key, v, "seconds or a duration") {
		return 0, false
	}
	text := s.number(key, v)
	if !isDecimal(v.text) && v.meaning() == floatMeaning {
		f, _ := yamlFloat(v.text)
		text = strconv.FormatFloat(f, 'f', -1, 64)
	}
	d, err := ParseDuration(text)
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), ";")
		s.fail(v, key, why, durationHint)
		return 0, false
	}
	return d, true
}

// positive is a duration that must not be zero.
func (s *scope) positive(key string, v *value) (time.Duration, bool) {
	d, ok := s.duration(key, v)
	if ok && d == 0 {
		s.fail(v, key, "must be longer than 0", durationHint)
		return 0, false
	}
	return d, ok
}

func (s *scope) bytes(key string, v *value) (int64, bool) {
	if !s.scalar(key, v, "an amount of bytes") {
		return 0, false
	}
	n, ok := parseBytes(s.number(key, v))
	if !ok || n <= 0 {
		s.fail(v, key, fmt.Sprintf("%q is not an amount of bytes", cut(v.text)), "write bytes, or an amount such as 512K, 100M, 1G")
		return 0, false
	}
	return n, true
}

// word reads one of a few words. A plain off or no is the word off: YAML's
// booleans must not get in the way of a key that has that word.
func (s *scope) word(key string, v *value, words ...string) (string, bool) {
	if !s.scalar(key, v, "one of "+strings.Join(words, ", ")) {
		return "", false
	}
	w := strings.ToLower(strings.TrimSpace(v.text))
	if is, ok := yamlBool(v.text); ok && !is && v.plain && slices.Contains(words, "off") {
		w = "off"
	}
	if slices.Contains(words, w) {
		return w, true
	}
	hint := "write one of " + strings.Join(words, ", ")
	if len(words) == 1 {
		hint = "the only value is " + words[0]
	}
	if near := nearest(w, words); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	s.fail(v, key, fmt.Sprintf("%q is not known here", cut(v.text)), hint)
	return "", false
}

// texts reads a list of strings; a single one counts as a list of one.
func (s *scope) texts(key string, v *value) ([]string, bool) {
	if isNull(v) {
		s.warn(v, key, "is empty, as if it were not there", "give it a value or take it out")
		return nil, false
	}
	items := []*value{v}
	if v.kind == listKind {
		items = v.items
	}
	list, good := make([]string, 0, len(items)), true
	for _, item := range items {
		if isNull(item) {
			s.fail(item, key, "has an empty entry", "take it out")
			good = false
			continue
		}
		text, ok := s.text(key, item)
		if text = strings.TrimSpace(text); ok && text != "" {
			list = append(list, text)
		}
		good = good && ok
	}
	return list, good
}

// loadZone loads a time zone; the names are IANA's.
func loadZone(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("unknown time zone %q", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("unknown time zone %q", cut(name))
	}
	return loc, nil
}

func (s *scope) zone(key string, v *value, zones *zoneTable) (*time.Location, bool) {
	name, ok := s.text(key, v)
	if !ok {
		return nil, false
	}
	loc, err := zones.load(strings.TrimSpace(name))
	if err != nil {
		s.fail(v, key, err.Error(), "write an IANA name such as Europe/Bucharest, or UTC")
		return nil, false
	}
	return loc, true
}

// zoneTable keeps one Location a name: 10,000 jobs must not read 10,000 files,
// and an unchanged job keeps the very same pointer over reloads. All sets of one
// directory share it; it only grows, by names that exist.
type zoneTable struct {
	mu    sync.Mutex
	known map[string]*time.Location
}

func (z *zoneTable) load(name string) (*time.Location, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if loc := z.known[name]; loc != nil {
		return loc, nil
	}
	loc, err := loadZone(name)
	if err == nil {
		z.known[name] = loc
	}
	return loc, err
}

// address reads an address to listen on, without a port.
func (s *scope) address(key string, v *value) (string, bool) {
	text, ok := s.text(key, v)
	if !ok {
		return "", false
	}
	text = strings.TrimSpace(text)
	if ip := strings.Trim(text, "[]"); net.ParseIP(ip) != nil {
		return ip, true
	}
	if text == "" || strings.ContainsAny(text, ":/ ") {
		s.fail(v, key, fmt.Sprintf("%q is not an address to listen on", cut(text)), "write an address such as 127.0.0.1 or 0.0.0.0; the port has a key of its own")
		return "", false
	}
	return text, true
}
