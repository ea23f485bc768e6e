package config

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// vector is a line of the public vectors.
type vector struct {
	TZ, Sec, Min, Hour, Dom, Mon, Dow, Year string
	Now                                     time.Time
	Next                                    *time.Time
	Error                                   bool
	Why                                     string
}

func (v vector) fields() FieldTexts {
	return FieldTexts{Sec: v.Sec, Min: v.Min, Hour: v.Hour, Dom: v.Dom, Mon: v.Mon, Dow: v.Dow, Year: v.Year}
}

func readVectors(t testing.TB, name string) []vector {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []vector
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatalf("%s line %d: %v", name, len(all)+1, err)
		}
		all = append(all, v)
	}
	return all
}

func mustLoad(t testing.TB, name string) *time.Location {
	t.Helper()
	if name == "" {
		return time.UTC
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestVectors(t *testing.T) {
	for name, want := range map[string]int{"cron-vectors-public.jsonl": 1548, "cron-dst-public.jsonl": 1835} {
		t.Run(name, func(t *testing.T) {
			vectors := readVectors(t, name)
			if len(vectors) != want {
				t.Fatalf("%d lines were read, the file has %d", len(vectors), want)
			}
			for i, v := range vectors {
				loc := mustLoad(t, v.TZ)
				s, err := ParseFields(v.fields(), loc)
				if v.Error {
					var fe *FieldError
					if !errors.As(err, &fe) || fe.Text == "" {
						t.Errorf("line %d: %+v: error %v, want a FieldError", i+1, v.fields(), err)
					}
					continue
				}
				if err != nil {
					t.Errorf("line %d: %v", i+1, err)
					continue
				}
				got := s.Next(v.Now)
				switch {
				case v.Next == nil && !got.IsZero():
					t.Errorf("line %d: %+v %s after %v is %v, want never", i+1, v.fields(), v.TZ, v.Now, got)
				case v.Next != nil && !got.Equal(*v.Next):
					t.Errorf("line %d: %+v %s after %v is %v, want %v (%s)", i+1, v.fields(), v.TZ, v.Now, got, v.Next, v.Why)
				case v.Next != nil && got.Location() != loc:
					t.Errorf("line %d: the answer is in %v, want %v", i+1, got.Location(), loc)
				}
			}
		})
	}
}
