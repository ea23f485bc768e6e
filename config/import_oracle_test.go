package config

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// cronOracle is cron once more, from crontab(5) alone and as plainly as it can be
// said: it looks at every minute. It shares no code with the package.
type cronOracle struct {
	min, hour, dom, mon, dow [64]bool
	domStar, dowStar         bool
}

func newCronOracle(line string) cronOracle {
	f := strings.Fields(line)
	o := cronOracle{domStar: f[2][0] == '*', dowStar: f[4][0] == '*'}
	months := []string{"", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	days := []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	for i, into := range []*[64]bool{&o.min, &o.hour, &o.dom, &o.mon, &o.dow} {
		limits := [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}}[i]
		names := [5][]string{3: months, 4: days}[i]
		value := func(s string) int {
			for n, name := range names {
				if name != "" && strings.EqualFold(name, s) {
					return n
				}
			}
			n, err := strconv.Atoi(s)
			if err != nil {
				panic("the oracle can't read " + s)
			}
			return n
		}
		for _, item := range strings.Split(f[i], ",") {
			step := 1
			if k := strings.Index(item, "/"); k >= 0 {
				step = value(item[k+1:])
				item = item[:k]
			}
			low, high := limits[0], limits[1]
			if k := strings.Index(item, "-"); k >= 0 {
				low, high = value(item[:k]), value(item[k+1:])
				if i == 4 && high < low {
					high = 7 // sat-sun
				}
			} else if item != "*" {
				low = value(item)
				high = low
			}
			for v := low; v <= high; v += step {
				into[v] = true
			}
		}
	}
	o.dow[0] = o.dow[0] || o.dow[7]
	return o
}

func (o *cronOracle) day(t time.Time) bool {
	dom, dow := o.dom[t.Day()], o.dow[t.Weekday()]
	if o.domStar || o.dowStar {
		return o.mon[t.Month()] && dom && dow
	}
	return o.mon[t.Month()] && (dom || dow)
}

// sameFirings compares an imported line with the oracle, minute by minute over
// days on which the zone's clocks do not change.
func sameFirings(t interface {
	Helper()
	Fatalf(string, ...any)
}, line, zone string, from time.Time, days int) {
	t.Helper()
	got := ImportCrontabs([]Crontab{{Path: "c", Machine: "m", Zone: zone, Kind: UserCrontab, User: "root", Text: []byte(line + " run\n")}}, ImportOptions{})
	job := got.Set.Jobs["run"]
	if got.Lost() > 0 || job == nil || len(got.Set.Errors()) > 0 {
		t.Fatalf("%q is not carried over: %v\n%s", line, got.Notes, got.Text)
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || job.Location.String() != zone {
		t.Fatalf("%q is in %s, not in %s: %v", line, job.Location, zone, err)
	}
	o := newCronOracle(line)
	year, month, day := from.Date()
	midnight := time.Date(year, month, day, 0, 0, 0, 0, loc)
	next := job.Schedule.Next(midnight.Add(-time.Second))
	for range days {
		fires := o.day(midnight)
		for minute := range 24 * 60 {
			want := fires && o.hour[minute/60] && o.min[minute%60]
			at := midnight.Unix() + int64(minute)*60
			if is := next.Unix() == at; is != want || !next.IsZero() && next.Unix() < at {
				t.Fatalf("%q in %s at %s: cron fires %v; the job %+v is next due at %s", line, zone, time.Unix(at, 0).In(loc), want, job.Fields, next)
			}
			if want {
				next = job.Schedule.Next(next)
			}
		}
		midnight = midnight.Add(24 * time.Hour)
	}
}

// calm is a time of the year in which no zone of these tests changes its clocks
// for a good while.
var calm = time.Date(2027, 4, 10, 0, 0, 0, 0, time.UTC)

func TestImportedLinesFireWhenCronFires(t *testing.T) {
	for _, line := range []string{
		"* * * * *", "*/5 * * * *", "0-59/7 * * * *", "3,33 */2 * * *", "0 0 * * *", "0 0 * * 7", "0 0 * * 0", "0 0 * * sun", "0 0 * * SAT-SUN",
		"0 0 * * 5-7", "0 0 * * 1-7/2", "0 0 * * */2", "0 0 * * */7", "0 0 13 * 5", "30 4 1,15 * fri", "0 0 */2 * 1", "0 0 */3 * mon-fri",
		"0 0 1-31 * 1", "0 0 *,5 * 1", "0 0 5,* * 1", "0 0 1 * *", "0 0 31 * *", "0 12 29 2 *", "0 0 1 jan,MAY-jun *", "0 0 1 */3 *", "08 09 * * *",
		"0 0 10-20/3 5 *", "0 0 1-7 * */3", "*/70 * * * *", "5 0-23/25 * * *", "1,1,1 2-4,3 * * *", "0 0 * * 0-7", "0 0 * * 0-6", "59 23 31 12 0",
		"0 0 15 * 0,7", "0 0 * 4-6/2 1", "0-30/10,45 8-18 * * 1-5",
	} {
		for _, zone := range []string{"UTC", "America/New_York", "Asia/Kathmandu"} {
			sameFirings(t, line, zone, calm, 70)
		}
	}
}

// A year and more, over leap days and month lengths, in a zone without changes.
func TestImportedLinesFireOverYears(t *testing.T) {
	for _, line := range []string{"0 0 29 2 *", "0 6 31 * 1", "15 3 */10 * 0", "0 0 1 1 *"} {
		sameFirings(t, line, "Asia/Kolkata", time.Date(2027, 11, 1, 0, 0, 0, 0, time.UTC), 500)
	}
}

func TestImportedLinesOfAllKinds(t *testing.T) {
	limits := [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}}
	item := func(t *rapid.T, i int) string {
		low, high := limits[i][0], limits[i][1]
		step := ""
		if rapid.Bool().Draw(t, "step") {
			step = fmt.Sprintf("/%d", rapid.IntRange(1, high+3).Draw(t, "n"))
		}
		from := rapid.IntRange(low, high).Draw(t, "from")
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return "*" + step
		case 1:
			return strconv.Itoa(from)
		case 2:
			if i == 3 {
				return []string{"", "jan", "feb", "mar", "apr", "May", "jun", "JUL", "aug", "sep", "oct", "nov", "dec"}[from]
			}
			if i == 4 {
				return []string{"sun", "mon", "tue", "wed", "Thu", "fri", "SAT", "sun"}[from]
			}
		}
		return fmt.Sprintf("%d-%d%s", from, rapid.IntRange(from, high).Draw(t, "to"), step)
	}
	rapid.Check(t, func(t *rapid.T) {
		fields := make([]string, 5)
		for i := range fields {
			var items []string
			for range rapid.IntRange(1, 3).Draw(t, "items") {
				items = append(items, item(t, i))
			}
			fields[i] = strings.Join(items, ",")
		}
		from := calm.AddDate(0, 0, rapid.IntRange(0, 100).Draw(t, "from"))
		zone := rapid.SampledFrom([]string{"UTC", "Europe/Bucharest", "America/St_Johns", "Asia/Kolkata"}).Draw(t, "zone")
		sameFirings(t, strings.Join(fields, " "), zone, from, 40)
	})
}
