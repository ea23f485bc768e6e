package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestFieldErrors(t *testing.T) {
	for _, c := range []struct {
		field, text string
		want        string
		offset      int
	}{
		{"hour", "22-2", `hour: range "22-2" runs backwards; write 22-23,0-2`, 0},
		{"hour", " 1,22-2", `hour: range "22-2" runs backwards; write 22-23,0-2`, 3},
		{"hour", "23-0", `hour: range "23-0" runs backwards; write 23,0`, 0},
		{"min", "*/60", `min: step 60 is out of range 1-59`, 2},
		{"min", "0,*/60", `min: step 60 is out of range 1-59`, 4},
		{"min", "59/1", `min: step 1 from 59 leads past 59; write 59 without a step`, 3},
		{"dow", "L", `dow: 'L' alone is only allowed in dom; here write L0-L6`, 0},
		{"dow", "fri-mon", `dow: range "fri-mon" runs backwards; write fri-sun,mon`, 0},
		{"dow", "5-2", `dow: range "5-2" runs backwards; write 5-7,1-2`, 0},
		{"dow", "L5-2", `dow: range "5-2" runs backwards; write L5-7,L1-2`, 1},
		{"dow", "5#2", `dow: "5#2" is not understood; write dow: '5' and dom: '8-14', both must match`, 0},
		{"dow", "5#5", `dow: "5#5" is not understood; write L5 for the last one of the month, or dow together with a range of days in dom`, 0},
		{"dow", "friday", `dow: "friday" is not a name; write fri`, 0},
		{"dow", "8", `dow: 8 is out of range 0-7; write 0-6 or sun-sat; 0 and 7 are Sunday`, 0},
		{"mon", "nov-feb", `mon: range "nov-feb" runs backwards; write nov-dec,jan-feb`, 0},
		{"mon", "L", `mon: 'L' is only allowed in dom and dow; write a number from 1-12`, 0},
		{"mon", "fri", `mon: "fri" is neither a number nor a name; write 1-12 or jan-dec`, 0},
		{"dom", "0", `dom: 0 is out of range 1-31; write 1 for the first day of the month, L for the last`, 0},
		{"dom", "15W", `dom: "15W" is not understood; the nearest weekday can't be said here; write a day and dow: 1-5, both must match`, 0},
		{"dom", "L5", `dom: "L5" is only allowed in dow; here write L, the last day of the month`, 0},
		{"dom", "L-3", `dom: "L-3" is not understood; days before the last are written Z3`, 0},
		{"dom", "Z3-1", `dom: range "Z3-1" runs backwards; write Z1-3`, 0},
		{"dom", "*/31", `dom: step 31 from 1 leads past 31; write 1 without a step`, 2},
		{"year", "2030-2025", `year: range "2030-2025" runs backwards; write 2025-2030`, 0},
		{"year", "1969", `year: 1969 is out of range 1970-2099; write a number from 1970-2099`, 0},
		{"hour", "24", `hour: 24 is out of range 0-23; write 0 for midnight`, 0},
		{"hour", "9-5x", `hour: "5x" is not a number; write a number from 0-23`, 2},
		{"hour", "?", `hour: '?' is only allowed alone in dom and dow; here write *`, 0},
		{"min", "1, 2", `min: " 2" has a blank in it; write 2 without the blank`, 2},
		{"min", "5,", `min: an item of the list is empty; leave out the extra comma`, 2},
		{"min", "", `min: is missing; write '*' for every minute`, 0},
		{"min", "0 2 * * *", `min: "0 2 * * *" has a blank in it; a field is one value or a list with commas; a whole crontab line goes into the key schedule`, 0},
		{"min", "@hourly", `min: "@hourly" is not allowed in a field; write schedule: '@hourly' instead of the fields`, 0},
		{"sec", "é,61", `sec: "é" is not a number; write a number from 0-59`, 0},
		{"sec", "99999999999999999999", `sec: 99999999999999999999 is out of range 0-59; write a number from 0-59`, 0},
	} {
		f := daily("0", "0")
		switch c.field {
		case "sec":
			f.Sec = c.text
		case "min":
			f.Min = c.text
		case "hour":
			f.Hour = c.text
		case "dom":
			f.Dom = c.text
		case "mon":
			f.Mon = c.text
		case "dow":
			f.Dow = c.text
		case "year":
			f.Year = c.text
		}
		_, err := ParseFields(f, nil)
		var fe *FieldError
		if !errors.As(err, &fe) {
			t.Errorf("%s %q: %v, want a FieldError", c.field, c.text, err)
			continue
		}
		if err.Error() != c.want || fe.Offset != c.offset || fe.Field != c.field {
			t.Errorf("%s %q:\n got %v (offset %d)\nwant %s (offset %d)", c.field, c.text, err, fe.Offset, c.want, c.offset)
		}
	}
}

// What the hint of a backward range says must itself be right, and mean the same
// as the range that wraps around.
func TestHintsOfBackwardRangesHold(t *testing.T) {
	for i, rule := range fieldRules {
		if rule.name == "year" {
			continue
		}
		for from := rule.min; from <= rule.max; from++ {
			for to := rule.min; to < from; to++ {
				if rule.name == "dow" && to == 0 {
					continue // 5-0 is a range
				}
				texts := []string{plainNumber(from) + "-" + plainNumber(to)}
				if rule.names != nil && from-rule.first < len(rule.names) {
					texts = append(texts, rule.names[from-rule.first]+"-"+rule.names[to-rule.first])
				}
				for _, text := range texts {
					_, err := rule.parse(text)
					if err == nil {
						t.Fatalf("%s %q is accepted", rule.name, text)
					}
					hint, ok := strings.CutPrefix(err.Hint, "write ")
					set, err := rule.parse(hint)
					if !ok || err != nil {
						t.Fatalf("%s %q: hint %q: %v", rule.name, text, hint, err)
					}
					for v := rule.min; v <= rule.top; v++ {
						inside := v >= from || v <= to
						if i == 5 {
							inside = v >= from || v >= 1 && v <= to || v == 0 // Sunday ends the first part
						}
						if got := set.bits[0]>>v&1 != 0 || i == 5 && v == 0 && set.bits[0]>>7&1 != 0; got != inside {
							t.Fatalf("%s %q: hint %q: %d is %v", rule.name, text, hint, v, got)
						}
					}
				}
			}
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := ParseFields(FieldTexts{Min: "61", Hour: "22-2", Dom: "*", Mon: "x", Dow: "*"}, nil)
	var all FieldErrors
	if !errors.As(err, &all) || len(all) != 3 {
		t.Fatalf("%v, want the faults of three fields", err)
	}
	var first *FieldError
	if !errors.As(err, &first) || first.Field != "min" {
		t.Errorf("the first fault is %v, want that of min", first)
	}
}

func TestCrontabErrors(t *testing.T) {
	for text, want := range map[string]string{
		"TZ=UTC":                          "TZ= is not allowed here; write timezone: as a key of its own",
		" TZ=":                            "TZ= is not allowed here; write timezone: as a key of its own",
		"CRON_TZ=Europe/Berlin 0 2 * * *": "CRON_TZ= is not allowed here; write schedule: '0 2 * * *' and timezone: Europe/Berlin",
		"@every 0s":                       `"@every 0s" is not a delay; write a positive one, such as @every 10m`,
		"@every -5m":                      `"@every -5m" is not a delay; write a positive one, such as @every 10m`,
		"@every tea":                      `"@every tea" has no delay; write one such as @every 10m or @every 1h30m`,
		"@reboot":                         "@reboot is not known here; a job is started by the clock, or by saltpeter run",
		"@Daily":                          `"@Daily" is not known; write @yearly, @monthly, @weekly, @daily, @hourly, @every 10m, or five fields`,
		"0 22-2 * * *":                    `hour: range "22-2" runs backwards; write 22-23,0-2`,
		"0 2 * * 7":                       `dow: "7" is not allowed in a crontab; write 0-6 or sun-sat in ascending order, Sunday is 0`,
		"0 2 * * 5#2":                     `dow: "5#2" is not understood; use the keys of the fields instead of schedule: write dow: '5' and dom: '8-14', both must match`,
		"0 2 L * *":                       `dom: "L" is not allowed in a crontab; the keys sec, min, hour, dom, mon, dow, year instead of schedule allow it`,
		"61 * * * * *":                    "sec: 61 is out of range 0-59; write a number from 0-59",
		"* * * *":                         "has 4 fields; " + crontabHint + "; the command goes into its own key",
		", * * * *":                       "the min field is empty; write * for every minute",
		"":                                "is empty; " + crontabHint,
	} {
		_, err := ParseCrontab(text, nil)
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != "schedule" {
			t.Errorf("%q: %v, want a FieldError of schedule", text, err)
			continue
		}
		if got := strings.TrimPrefix(err.Error(), "schedule: "); got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
	_, err := ParseCrontab("  0  24 * * *", nil)
	var fe *FieldError
	if !errors.As(err, &fe) || fe.Offset != 5 {
		t.Errorf("%+v, want the offset of the second field, 5", fe)
	}
}

func TestDescribe(t *testing.T) {
	bucharest := mustLoad(t, "Europe/Bucharest")
	for _, c := range []struct {
		f    FieldTexts
		want string
	}{
		{FieldTexts{Min: "30", Hour: "2", Dom: "*", Mon: "*", Dow: "1-5"}, "every weekday at 02:30 Europe/Bucharest"},
		{FieldTexts{Sec: "*", Min: "*", Hour: "*", Dom: "*", Mon: "*", Dow: "*"}, "every second"},
		{FieldTexts{Min: "*/5", Hour: "*", Dom: "*", Mon: "*", Dow: "*"}, "every 5 minutes"},
		{FieldTexts{Min: "*/5", Hour: "9-17", Dom: "*", Mon: "*", Dow: "mon-fri"}, "every weekday, every 5 minutes from 09:00 to 17:55 Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "0", Dom: "13", Mon: "*", Dow: "fri"}, "on the 13th of every month if that is a Friday at 00:00 Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "18", Dom: "*", Mon: "*", Dow: "L5"}, "on the last Friday of every month at 18:00 Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "18", Dom: "1,L", Mon: "jan,jul", Dow: "*"}, "on the 1st and last day of January and July at 18:00 Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "18", Dom: "Z0-3", Mon: "*", Dow: "*"}, "on the last 4 days of every month at 18:00 Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "*/2", Dom: "*", Mon: "*", Dow: "*"}, "every 2 hours, Europe/Bucharest"},
		{FieldTexts{Min: "15", Hour: "*", Dom: "*", Mon: "*", Dow: "*"}, "every hour at minute 15, Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "0", Dom: "30", Mon: "feb", Dow: "*"}, "never: on the 30th of February at 00:00 Europe/Bucharest"},
		{FieldTexts{Sec: "*/10", Min: "*", Hour: "*", Dom: "*", Mon: "*", Dow: "6-7"}, "every Saturday and Sunday, every 10 seconds, Europe/Bucharest"},
		{FieldTexts{Min: "0", Hour: "0", Dom: "*", Mon: "jun", Dow: "*", Year: "2026-2030"}, "every day in June at 00:00 Europe/Bucharest, only from 2026 to 2030"},
		{FieldTexts{Min: "*/7", Hour: "1,4", Dom: "*", Mon: "*", Dow: "*/3"}, "min */7, hour 1,4, dow */3 Europe/Bucharest"},
		{FieldTexts{Min: "22-2", Hour: "0", Dom: "*", Mon: "*", Dow: "*"}, "min 22-2, hour 0"},
		{FieldTexts{Crontab: "0 2 1,15 * 5"}, "on the 1st and 15th of every month and every Friday at 02:00 Europe/Bucharest"},
		{FieldTexts{Crontab: "@every 90m"}, "every 90 minutes"},
		{FieldTexts{Crontab: "@daily"}, "every day at 00:00 Europe/Bucharest"},
		{FieldTexts{Crontab: "nonsense"}, "nonsense"},
	} {
		if got := Describe(c.f, bucharest); got != c.want {
			t.Errorf("%+v:\n got %s\nwant %s", c.f, got, c.want)
		}
	}
	if got, want := Describe(daily("2", "30"), nil), "every day at 02:30 UTC"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEvery(t *testing.T) {
	bucharest := mustLoad(t, "Europe/Bucharest")
	s, err := ParseCrontab("@every 90m", bucharest)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 3, 29, 0, 30, 0, 5e8, time.UTC) // the clocks do not matter to a delay
	if got, want := s.Next(from), time.Date(2026, 3, 29, 2, 0, 0, 0, time.UTC); !got.Equal(want) || got.Location() != bucharest {
		t.Errorf("%v, want %v", got, want)
	}
	if got := s.Next(time.Date(2099, 12, 31, 23, 0, 0, 0, bucharest)); !got.IsZero() {
		t.Errorf("behind the end: %v, want never", got)
	}
}
