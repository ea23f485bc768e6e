package ledger

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// BenchmarkDurable writes rows (one Begun with one task, or one Ended) from as
// many callers at once as the group is large, beside the same as lines of JSON
// with one fdatasync a group. The told ones are those that reports are written of.
func BenchmarkDurable(b *testing.B) {
	for _, group := range []int{1, 100, 1000} {
		for name, ours := range map[string]func(*testing.B, int){
			"begun": func(b *testing.B, group int) { benchBegun(b, group) }, "ended": func(b *testing.B, group int) { benchEnded(b, group) },
			"begun-told": func(b *testing.B, group int) { benchBegun(b, group, "text", "search") },
			"ended-told": func(b *testing.B, group int) { benchEnded(b, group, "text", "search") },
		} {
			b.Run(fmt.Sprintf("%s/%d/ours", name, group), func(b *testing.B) {
				ours(b, group)
				if group <= 100 {
					b.ReportMetric(0.45, "reach")
				}
			})
			b.Run(fmt.Sprintf("%s/%d/baseline", name, group), func(b *testing.B) { benchJSON(b, group) })
		}
	}
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

// inGroups calls f(i) for every i below n from group goroutines.
func inGroups(n, group int, f func(i int)) {
	var wg sync.WaitGroup
	for g := range group {
		wg.Go(func() {
			for i := g; i < n; i += group {
				f(i)
			}
		})
	}
	wg.Wait()
}

func benchRun(i int) Run {
	return runOf(fmt.Sprintf("job%d", i%100), noon.Add(time.Duration(i)*time.Second), "machine1")
}

func benchBegun(b *testing.B, group int, readers ...string) {
	l := openTest(b, b.TempDir())
	reporters(b, l, readers...)
	b.ResetTimer()
	inGroups(b.N, group, func(i int) { apply(b, l, Begun{benchRun(i)}) })
	perSecond(b, 2*b.N) // a run and a task
}

func benchEnd(i int, run string) Ended {
	return Ended{Task: TaskID{run, "machine1"}, At: noon.Add(time.Duration(i) * time.Second), State: Succeeded,
		End: wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0), ElapsedMS: 12.5, Length: wire.Ptr[int64](4711)}}
}

func benchEnded(b *testing.B, group int, readers ...string) {
	l := openTest(b, b.TempDir())
	reporters(b, l, readers...)
	inGroups(b.N, 1000, func(i int) { apply(b, l, Begun{benchRun(i)}) })
	b.ResetTimer()
	inGroups(b.N, group, func(i int) { apply(b, l, benchEnd(i, benchRun(i).ID)) })
	perSecond(b, b.N)
}

func benchJSON(b *testing.B, group int) {
	f, err := os.Create(filepath.Join(b.TempDir(), "lines"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for i := 0; i < b.N; {
		var lines []byte
		for range group {
			line, err := json.Marshal(benchEnd(i, benchRun(i).ID))
			if err != nil {
				b.Fatal(err)
			}
			lines = append(append(lines, line...), '\n')
			i++
		}
		if _, err := f.Write(lines); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, b.N)
}

// BenchmarkOutput appends frames of one task's output with one Sync at the end.
func BenchmarkOutput(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 256 << 10} {
		data := make([]byte, size)
		bench := func(name string, add func(o *Output, i int) error) {
			b.Run(fmt.Sprintf("%s/%dK/ours", name, size>>10), func(b *testing.B) {
				l := openTest(b, b.TempDir())
				apply(b, l, Begun{runOf("job", noon, "m")})
				o, err := l.Output(TaskID{runOf("job", noon).ID, "m"})
				if err != nil {
					b.Fatal(err)
				}
				defer o.Close()
				b.SetBytes(int64(size))
				b.ResetTimer()
				for i := range b.N {
					if err := add(o, i); err != nil {
						b.Fatal(err)
					}
				}
				if err := o.Sync(); err != nil {
					b.Fatal(err)
				}
			})
		}
		bench("bytes", func(o *Output, i int) error {
			_, err := o.Append(noon.Add(time.Duration(i)*100*time.Microsecond), o.Length(), wire.Stdout, data)
			return err
		})
		bench("seq", func(o *Output, i int) error {
			return o.AppendSeq(noon.Add(time.Duration(i)*100*time.Microsecond), int64(i), wire.Stdout, data)
		})
		plain := func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "out"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.SetBytes(int64(size))
			for range b.N {
				if _, err := f.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
		for _, name := range []string{"bytes", "seq"} {
			b.Run(fmt.Sprintf("%s/%dK/baseline", name, size>>10), plain)
		}
	}
}

// BenchmarkHistory reads pages of a history of 100,000 runs (LEDGER_RUNS=1000000
// for more), beside the bare SQL for the same rows.
func BenchmarkHistory(b *testing.B) {
	n := 100_000
	if text := os.Getenv("LEDGER_RUNS"); text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil {
			b.Fatal(err)
		}
	}
	l := openTest(b, b.TempDir())
	inGroups(n/100, 100, func(i int) {
		var events []Event
		for j := i * 100; j < i*100+100; j++ {
			end := benchEnd(j, benchRun(j).ID)
			if j%1000 == 0 {
				end.State, end.ExitCode = Failed, 3
			}
			events = append(events, Begun{benchRun(j)}, end)
		}
		apply(b, l, events...)
	})
	page := func(name string, f RunFilter, want int) {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				p, err := l.Runs(b.Context(), f)
				if err != nil || len(p.Runs) != want {
					b.Fatal(len(p.Runs), err)
				}
			}
			if strings.HasSuffix(name, "/ours") {
				b.ReportMetric(2, "reach")
			}
		})
	}
	middle := spot{noon.Add(time.Duration(n/2) * time.Second).UnixNano(), 0}.cursor()
	page("newest20/ours", RunFilter{Limit: 20}, 20)
	page("newest100/ours", RunFilter{}, 100)
	page("middle20", RunFilter{Limit: 20, Cursor: middle}, 20)
	page("job20", RunFilter{Job: "job7", Limit: 20}, 20)
	page("jobmiddle20", RunFilter{Job: "job7", Limit: 20, Cursor: middle}, 20)
	page("machine20", RunFilter{Machine: "machine1", Limit: 20}, 20)
	page("failed20", RunFilter{States: []State{Failed, TimedOut}, Limit: 20}, 20)
	page("jobfailed20", RunFilter{Job: "job0", States: []State{Failed}, Limit: 20}, 20)
	page("live20", RunFilter{States: []State{Running}, Limit: 20}, 0)
	for _, size := range []int{20, 100} {
		b.Run(fmt.Sprintf("newest%d/baseline", size), func(b *testing.B) {
			for range b.N {
				got := bareSQL(b, l, size)
				if got != size {
					b.Fatal(got)
				}
			}
		})
	}
	b.Run("lastruns", func(b *testing.B) {
		for range b.N {
			last, err := l.LastRuns(b.Context())
			if err != nil || len(last) != 100 {
				b.Fatal(len(last), err)
			}
		}
	})
}

// bareSQL fetches the same rows as a page of the newest runs and throws them away.
func bareSQL(b *testing.B, l *Ledger, size int) int {
	rows, err := l.read.QueryContext(b.Context(), `SELECT `+runColumns+`, `+taskColumns+` FROM runs r JOIN tasks t ON t.run = r.num
		WHERE r.num IN (SELECT num FROM runs ORDER BY due DESC, num DESC LIMIT ?) ORDER BY r.due DESC, r.num DESC`, size)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		b.Fatal(err)
	}
	values := make([]any, len(columns))
	for i := range values {
		values[i] = new(any)
	}
	n := 0
	for rows.Next() {
		if err := rows.Scan(values...); err != nil {
			b.Fatal(err)
		}
		n++
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return n
}
