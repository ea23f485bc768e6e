package report

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The template that is shipped names every field of a document, and no other, with
// a type that takes what is sent.
func TestTemplate(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../packaging/elasticsearch-template.json")
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Patterns []string `json:"index_patterns"`
		Template struct {
			Mappings struct {
				Properties map[string]struct {
					Type string `json:"type"`
				} `json:"properties"`
			} `json:"mappings"`
		} `json:"template"`
	}
	if err := json.Unmarshal(data, &template); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(template.Patterns, []string{"saltpeter-*"}) {
		t.Error(template.Patterns)
	}
	types := template.Template.Mappings.Properties
	fields := reflect.TypeFor[document]()
	if len(types) != fields.NumField() {
		t.Errorf("%d fields, a document has %d", len(types), fields.NumField())
	}
	for f := range fields.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		want := []string{"keyword", "text", "date"}
		if f.Type.Kind() == reflect.Int {
			want = []string{"integer"}
		}
		if !slices.Contains(want, types[name].Type) {
			t.Errorf("%s is a %q", name, types[name].Type)
		}
	}
}
