package api

import "unicode/utf8"

// What a page holds of an output is a JavaScript string: it counts UTF-16 code
// units, and every byte that belongs to no character is one U+FFFD. Both functions
// below read bytes in that way. A character whose last bytes are not there yet is
// left for the next time, unless nothing follows.

// countUnits counts the code units of src, and the bytes that it read of it.
func countUnits(src []byte, final bool) (used int, units int64) {
	for used < len(src) {
		if src[used] < utf8.RuneSelf {
			used, units = used+1, units+1
			continue
		}
		if !final && !utf8.FullRune(src[used:]) {
			break
		}
		r, n := utf8.DecodeRune(src[used:])
		used, units = used+n, units+unitsOf(r)
	}
	return used, units
}

func unitsOf(r rune) int64 {
	if r >= 0x10000 {
		return 2
	}
	return 1
}

const hexDigits = "0123456789abcdef"

// appendText appends src to dst as the inside of a JSON string. It is countUnits
// that writes down what it reads.
func appendText(dst, src []byte, final bool) (_ []byte, used int, units int64) {
	plain := 0 // where the bytes begin that go through as they are
	for used < len(src) {
		c := src[used]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			used, units = used+1, units+1
			continue
		}
		if c >= utf8.RuneSelf {
			if !final && !utf8.FullRune(src[used:]) {
				break
			}
			r, n := utf8.DecodeRune(src[used:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, src[plain:used]...), "\uFFFD"...)
				plain = used + 1
			}
			used, units = used+n, units+unitsOf(r)
			continue
		}
		dst = appendEscaped(append(dst, src[plain:used]...), c)
		used, units = used+1, units+1
		plain = used
	}
	return append(dst, src[plain:used]...), used, units
}

func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
