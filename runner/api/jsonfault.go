package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// jsonFault says what is wrong with JSON that was to be read into v, in the words of
// who wrote it.
func jsonFault(err error, v any) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	key, unknown := strings.CutPrefix(err.Error(), "json: unknown field ") // which has no type of its own
	switch {
	case errors.As(err, &kind):
		what := "it"
		if kind.Field != "" {
			what = quote(keyPath(kind.Field))
		}
		return fmt.Sprintf("%s must be %s, and is %s", what, kindWords(kind.Type), gotWords(kind.Value))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends in the middle: a bracket, a brace or a quote is not closed"
	case errors.As(err, &syntax) && strings.HasPrefix(syntax.Error(), "unexpected end"):
		return "it ends in the middle: a bracket, a brace or a quote is not closed"
	case errors.As(err, &syntax):
		return fmt.Sprintf("it is not JSON: %s (byte %d)", syntax.Error(), syntax.Offset)
	case unknown && len(keysOf(reflect.TypeOf(v))) == 0:
		return fmt.Sprintf("it has the key %s, and takes none: send {}", key)
	case unknown:
		return fmt.Sprintf("it has the key %s, which nobody knows here; the keys are %s", key, strings.Join(keysOf(reflect.TypeOf(v)), ", "))
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// keyPath is a path of the decoder as the request has it: names of Go's own, which
// begin with a capital, are those of parts that are not seen in JSON.
func keyPath(path string) string {
	parts := strings.Split(path, ".")
	last := strings.ToLower(parts[len(parts)-1][:1]) + parts[len(parts)-1][1:]
	parts = slices.DeleteFunc(parts[:len(parts)-1], func(p string) bool { return p != "" && p[0] >= 'A' && p[0] <= 'Z' })
	return strings.Join(append(parts, last), ".")
}

// kindWords names what a Go type is in JSON.
func kindWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindWords(t.Elem())
	case reflect.String:
		return `text in quotes, like "this"`
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.String {
			return `a list of texts, like ["this"]`
		}
		return "a list, like [1]"
	case reflect.Struct, reflect.Map:
		if keys := keysOf(t); len(keys) > 0 {
			return fmt.Sprintf(`an object, like {"%s":…}`, keys[0])
		}
		return "an object, like {}"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// gotWords names what the decoder found: "number", "number 1.5", "string".
func gotWords(value string) string {
	kind, more, _ := strings.Cut(value, " ")
	words := map[string]string{"string": "text", "bool": "true or false", "array": "a list", "object": "an object", "number": "a number"}[kind]
	if words == "" {
		words = kind
	}
	if more != "" {
		words = kind + " " + more
	}
	return words
}

// keysOf lists the keys that a struct takes.
func keysOf(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			keys = append(keys, keysOf(f.Type)...)
		case name == "-" || !f.IsExported():
		case name == "":
			keys = append(keys, strings.ToLower(f.Name))
		default:
			keys = append(keys, name)
		}
	}
	return slices.Compact(keys)
}

// faultyDuration names the key of the duration that cannot be read, for the front of
// what is wrong with it: who reads durations is not told their keys.
func faultyDuration(body []byte, v any) string {
	var given map[string]json.RawMessage
	if json.Unmarshal(body, &given) != nil {
		return ""
	}
	for _, key := range keysOf(reflect.TypeOf(v)) {
		var d Duration
		if raw, there := given[key]; there && isDuration(reflect.TypeOf(v), key) && json.Unmarshal(raw, &d) != nil {
			return quote(key) + ": "
		}
	}
	return ""
}

// isDuration reports whether a key of a struct takes a duration.
func isDuration(t reflect.Type, key string) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" && isDuration(f.Type, key) {
			return true
		}
		if name == key && (f.Type == reflect.TypeFor[Duration]() || f.Type == reflect.TypeFor[*Duration]()) {
			return true
		}
	}
	return false
}
