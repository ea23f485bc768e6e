package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// shortcutFrom is the size from which Decode takes the shortcut for output.
const shortcutFrom = 512

// Decode reads one JSON text frame. Unknown fields are ignored: older and newer
// peers may send them. A timestamp that is no string counts as missing, which is
// never an error.
func Decode(frame []byte) (*Message, error) {
	m, err := decode(frame)
	if err != nil {
		return nil, fmt.Errorf("cannot read frame: %w", err)
	}
	if m.Type == "" {
		return nil, errors.New("cannot read frame: it has no type")
	}
	return m, nil
}

// decode takes the text of an output frame out before encoding/json sees the
// rest: that reads each byte several times, and is what older wrappers' output
// would have to wait for.
func decode(frame []byte) (*Message, error) {
	if len(frame) < shortcutFrom {
		return unmarshal(frame)
	}
	start, end, ok := findData(frame)
	if !ok {
		return unmarshal(frame)
	}
	data, ok := unquote(frame[start+1 : end-1])
	if !ok {
		return unmarshal(frame) // which says what is wrong
	}
	rest := make([]byte, 0, len(frame)-(end-start)+2)
	rest = append(rest, frame[:start]...)
	rest = append(rest, `""`...)
	rest = append(rest, frame[end:]...)
	m, err := unmarshal(rest)
	if err != nil {
		return nil, err
	}
	m.Data = data
	return m, nil
}

func unmarshal(frame []byte) (*Message, error) {
	var m Message
	err := json.Unmarshal(frame, &m)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field == "timestamp" {
		var odd struct {
			Message
			Timestamp json.RawMessage `json:"timestamp"` // hides the one within
		}
		err, m = json.Unmarshal(frame, &odd), odd.Message
	}
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// findData finds the value of "data" in a frame that is one flat object, quotes
// included. It gives up on whatever is unusual, and leaves saying whether the
// rest is JSON at all to the real decoder.
func findData(b []byte) (start, end int, ok bool) {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return 0, 0, false
	}
	for {
		i = skipSpace(b, i+1)
		key, next := stringAt(b, i)
		if next < 0 || bytes.IndexByte(key, '\\') >= 0 {
			return 0, 0, false
		}
		if i = skipSpace(b, next); i >= len(b) || b[i] != ':' {
			return 0, 0, false
		}
		i = skipSpace(b, i+1)
		from := i
		if _, next = stringAt(b, i); next >= 0 {
			i = next
		} else if i = skipScalar(b, i); i < 0 {
			return 0, 0, false
		}
		if bytes.EqualFold(key, []byte("data")) {
			if string(key) != "data" || next < 0 || ok {
				return 0, 0, false
			}
			start, end, ok = from, i, true
		}
		if i = skipSpace(b, i); i >= len(b) || b[i] != ',' {
			return start, end, ok
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// stringAt returns the string that begins at i without its quotes, and where it
// ends; -1 if there is none.
func stringAt(b []byte, i int) (s []byte, next int) {
	if i >= len(b) || b[i] != '"' {
		return nil, -1
	}
	for from := i + 1; ; {
		n := bytes.IndexByte(b[from:], '"')
		if n < 0 {
			return nil, -1
		}
		quote := from + n
		k := quote
		for k > i+1 && b[k-1] == '\\' {
			k--
		}
		if (quote-k)%2 == 0 {
			return b[i+1 : quote], quote + 1
		}
		from = quote + 1
	}
}

// skipScalar passes over a number or a word; -1 for what is nested.
func skipScalar(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case '{', '[', '"':
			return -1
		case ',', '}', ' ', '\n', '\t', '\r':
			return i
		}
	}
	return -1
}

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for i := ' '; i < utf8.RuneSelf; i++ {
		t[i] = i != '"' && i != '\\'
	}
	return t
}()

// escapes maps the letter of a short escape to its byte.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unquote reads the inside of a JSON string exactly as encoding/json does: what
// is not UTF-8, and half of a surrogate pair, become U+FFFD.
func unquote(s []byte) (string, bool) {
	var out strings.Builder
	out.Grow(len(s))
	for i := 0; i < len(s); {
		run := i
		for i < len(s) && plain[s[i]] {
			i++
		}
		out.Write(s[run:i])
		switch {
		case i == len(s):
		case s[i] >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(s[i:])
			out.WriteRune(r)
			i += n
		case s[i] != '\\' || i+1 == len(s):
			return "", false
		case s[i+1] == 'u':
			r, n := unicodeEscape(s[i:])
			if n == 0 {
				return "", false
			}
			out.WriteRune(r)
			i += n
		default:
			c := escapes[s[i+1]]
			if c == 0 {
				return "", false
			}
			out.WriteByte(c)
			i += 2
		}
	}
	return out.String(), true
}

// unicodeEscape reads \uXXXX, or two of them that are one character. n is the
// number of bytes read, 0 for an error.
func unicodeEscape(s []byte) (r rune, n int) {
	r = hex4(s)
	if r < 0 {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if pair := utf16.DecodeRune(r, hex4(s[6:])); pair != utf8.RuneError {
		return pair, 12
	}
	return utf8.RuneError, 6
}

func hex4(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range s[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
