package config

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// What a plain scalar means in YAML 1.1, as the program that people's files were
// written for read it (PyYAML's rules: 1e3 is text, 010 is 8, yes is true). The
// YAML library's own opinion is never asked: it follows a newer version.

type meaning uint8

const (
	textMeaning meaning = iota
	nullMeaning
	boolMeaning
	intMeaning
	floatMeaning
	timeMeaning
	mergeMeaning
)

// yamlBool reads a word as YAML 1.1 does; ok is false where it is no boolean.
func yamlBool(s string) (is, ok bool) {
	switch s {
	case "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return true, true
	case "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

// maxNumber bounds the digits that are taken for a number: beyond it nobody
// means one, and reading it would cost time.
const maxNumber = 64

func meaningOf(s string) meaning {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return nullMeaning
	case "<<":
		return mergeMeaning
	}
	if _, ok := yamlBool(s); ok {
		return boolMeaning
	}
	if c := s[0]; len(s) > maxNumber || !(c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.') {
		return textMeaning
	}
	if isDecimal(s) {
		return intMeaning
	}
	if _, ok := yamlInt(s); ok {
		return intMeaning
	}
	if _, ok := yamlFloat(s); ok {
		return floatMeaning
	}
	if _, ok := yamlTime(s); ok {
		return timeMeaning
	}
	return textMeaning
}

// meaning is that of a node: quotes make everything text.
func (v *value) meaning() meaning {
	if !v.plain {
		return textMeaning
	}
	return meaningOf(v.text)
}

func isNull(v *value) bool { return v.kind == scalarKind && v.meaning() == nullMeaning }

// yamlInt gives the value of an integer in any of YAML 1.1's ways of writing one.
func yamlInt(s string) (*big.Int, bool) {
	digits, neg := s, false
	if digits != "" && (digits[0] == '+' || digits[0] == '-') {
		neg, digits = digits[0] == '-', digits[1:]
	}
	if digits == "" || len(digits) > maxNumber {
		return nil, false
	}
	n, ok := new(big.Int), false
	switch {
	case strings.HasPrefix(digits, "0b"):
		n, ok = setDigits(digits[2:], 2)
	case strings.HasPrefix(digits, "0x"):
		n, ok = setDigits(digits[2:], 16)
	case digits == "0":
		ok = true
	case digits[0] == '0':
		n, ok = setDigits(digits, 8)
	case digits[0] == '_' || digits[0] == ':':
	case strings.Contains(digits, ":"):
		n, ok = sexagesimal(digits)
	default:
		n, ok = setDigits(digits, 10)
	}
	if ok && neg {
		n.Neg(n)
	}
	return n, ok
}

func setDigits(s string, base int) (*big.Int, bool) {
	s = strings.ReplaceAll(s, "_", "")
	if s == "" || s[0] == '+' || s[0] == '-' {
		return nil, false
	}
	return new(big.Int).SetString(s, base)
}

// sexagesimal reads 1:30 as 90: [1-9][0-9_]* and then groups of [0-5]?[0-9].
func sexagesimal(s string) (*big.Int, bool) {
	groups := strings.Split(s, ":")
	n, ok := setDigits(groups[0], 10)
	if !ok {
		return nil, false
	}
	for _, g := range groups[1:] {
		d, ok := sixtieth(g)
		if !ok {
			return nil, false
		}
		n.Add(n.Mul(n, big.NewInt(60)), big.NewInt(int64(d)))
	}
	return n, true
}

func sixtieth(g string) (int, bool) {
	if len(g) == 0 || len(g) > 2 || !allDigits(g) || len(g) == 2 && g[0] > '5' {
		return 0, false
	}
	d, err := strconv.Atoi(g)
	return d, err == nil
}

// isDecimal: a number as people write it, the same to everybody.
func isDecimal(s string) bool { return allDigits(s) && (s[0] != '0' || len(s) == 1) }

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func digitsOrBars(s string) bool {
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && s[i] != '_' {
			return false
		}
	}
	return true
}

// yamlFloat: a point is required, an exponent needs its sign, and a number that
// begins with the point takes no sign.
func yamlFloat(s string) (float64, bool) {
	body, sign := s, 1.0
	if body != "" && (body[0] == '+' || body[0] == '-') {
		if body[0] == '-' {
			sign = -1
		}
		body = body[1:]
	}
	signed := len(body) != len(s)
	switch body {
	case ".inf", ".Inf", ".INF":
		return sign * math.Inf(1), true
	case ".nan", ".NaN", ".NAN":
		return math.NaN(), !signed
	}
	before, after, found := strings.Cut(body, ".")
	if !found {
		return 0, false
	}
	if strings.Contains(before, ":") {
		return sexagesimalFloat(before, after, sign)
	}
	if before == "" && (signed || after == "" || after[0] < '0' || after[0] > '9') {
		return 0, false
	}
	if before != "" && (before[0] < '0' || before[0] > '9') || !digitsOrBars(before) {
		return 0, false
	}
	fraction := after
	if i := strings.IndexAny(after, "eE"); i >= 0 {
		exponent := after[i+1:]
		if len(exponent) < 2 || exponent[0] != '+' && exponent[0] != '-' || !allDigits(exponent[1:]) {
			return 0, false
		}
		fraction = after[:i]
	}
	if !digitsOrBars(fraction) {
		return 0, false
	}
	// Out of range is an infinity, as in Python.
	f, err := strconv.ParseFloat(strings.ReplaceAll(body, "_", ""), 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return sign * f, true
}

func sexagesimalFloat(before, after string, sign float64) (float64, bool) {
	groups := strings.Split(before, ":")
	if g := groups[0]; g == "" || g[0] == '_' || !digitsOrBars(g) || !digitsOrBars(after) {
		return 0, false
	}
	for _, g := range groups[1:] {
		if _, ok := sixtieth(g); !ok {
			return 0, false
		}
	}
	groups[len(groups)-1] += "." + after
	sum, base := 0.0, 1.0
	for i := len(groups) - 1; i >= 0; i-- {
		f, err := strconv.ParseFloat(strings.ReplaceAll(groups[i], "_", ""), 64)
		if err != nil {
			return 0, false
		}
		sum += base * f
		base *= 60
	}
	return sign * sum, true
}

// yamlTimes are layouts for time.Parse; only the last one has no zone.
var yamlTimes = [...]string{"2006-1-2T15:04:05Z07:00", "2006-1-2T15:04:05Z07", "2006-1-2T15:04:05"}

// yamlTime returns the text that Python makes of a date or a time.
func yamlTime(s string) (string, bool) {
	if len(s) < len("2006-01-02") || s[4] != '-' || !allDigits(s[:4]) {
		return "", false
	}
	if len(s) == len("2006-01-02") {
		_, err := time.Parse("2006-01-02", s)
		return s, err == nil
	}
	i := strings.IndexAny(s, "Tt \t")
	if i < 0 {
		return "", false
	}
	clock := strings.NewReplacer(" ", "", "\t", "").Replace(s[i+1:])
	for _, layout := range yamlTimes {
		t, err := time.Parse(layout, s[:i]+"T"+clock)
		if err != nil {
			continue
		}
		text := t.Format("2006-01-02 15:04:05")
		if us := t.Nanosecond() / 1000; us > 0 {
			text += fmt.Sprintf(".%06d", us)
		}
		if layout != yamlTimes[2] {
			text += t.Format("-07:00")
		}
		return text, true
	}
	return "", false
}

// pythonText is the text that the program of old made of a scalar, which is what
// a job of then found in its environment.
func pythonText(v *value) string {
	switch v.meaning() {
	case nullMeaning:
		return "None"
	case boolMeaning:
		if is, _ := yamlBool(v.text); is {
			return "True"
		}
		return "False"
	case intMeaning:
		if isDecimal(v.text) {
			return v.text
		}
		n, _ := yamlInt(v.text)
		return n.String()
	case floatMeaning:
		f, _ := yamlFloat(v.text)
		return pythonFloat(f)
	case timeMeaning:
		text, _ := yamlTime(v.text)
		return text
	}
	return v.text
}

func pythonFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// plainAny is the value as data: strings, numbers, booleans, nil, lists, maps.
// What JSON cannot hold stays text.
func plainAny(v *value) any {
	switch v.kind {
	case listKind:
		list := make([]any, len(v.items))
		for i, item := range v.items {
			list[i] = plainAny(item)
		}
		return list
	case mappingKind:
		m := make(map[string]any, len(v.pairs))
		for _, p := range v.pairs {
			m[p.key.text] = plainAny(p.val)
		}
		return m
	}
	switch v.meaning() {
	case nullMeaning:
		return nil
	case boolMeaning:
		is, _ := yamlBool(v.text)
		return is
	case intMeaning:
		if n, _ := yamlInt(v.text); n.IsInt64() {
			return n.Int64()
		}
	case floatMeaning:
		if f, _ := yamlFloat(v.text); !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
	}
	return v.text
}
