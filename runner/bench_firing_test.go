package runner

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/robfig/cron/v3"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idleJobs are 10,000 of which none is due while they are watched.
func idleJobs(b *testing.B) []*config.Job {
	now := time.Now().UTC()
	jobs := make([]*config.Job, 10_000)
	for i := range jobs {
		at := now.Add(2*time.Hour + time.Duration(i)*time.Second)
		f := config.FieldTexts{Sec: fmt.Sprint(at.Second()), Min: fmt.Sprint(at.Minute()), Hour: fmt.Sprint(at.Hour()), Dom: "*", Mon: "*", Dow: "*"}
		jobs[i] = scheduled(b, fmt.Sprintf("job%05d", i), f, "UTC")
	}
	return jobs
}

// busyJobs are 10,000 that are due once a minute each, spread evenly: a schedule
// that has to work.
func busyJobs(b *testing.B) []*config.Job {
	jobs := make([]*config.Job, 10_000)
	for i := range jobs {
		f := config.FieldTexts{Sec: fmt.Sprint(i % 60), Min: "*", Hour: "*", Dom: "*", Mon: "*", Dow: "*"}
		jobs[i] = scheduled(b, fmt.Sprintf("job%05d", i), f, "UTC")
	}
	return jobs
}

const watched = 3 * time.Second

// BenchmarkSchedulerIdle is the CPU time of one second of a whole server with
// 10,000 jobs of which none is due: everything that wakes. It has no baseline:
// robfig's runner sleeps until the first is due.
func BenchmarkSchedulerIdle(b *testing.B) {
	h := newHouse(b, setOf(idleJobs(b)...), newFleet(ends)).start()
	time.Sleep(time.Second)
	measureCPU(b)
	h.stop()
}

// measureCPU reports the CPU time of a second as the time of an operation.
func measureCPU(b *testing.B) {
	used := time.Duration(0)
	for range b.N {
		before := cpuTime()
		time.Sleep(watched)
		used += cpuTime() - before
	}
	second := float64(used) / watched.Seconds() / float64(b.N)
	b.ReportMetric(second, "ns/op")
	b.ReportMetric(second/1e9*100, "%cpu")
}

// BenchmarkDecisions is the CPU time of one second of a whole server but for the
// ledger, with 10,000 jobs, each due once a minute: what is due is found, and
// decided that maintenance is on.
func BenchmarkDecisions(b *testing.B) {
	set := setOf(busyJobs(b)...)
	set.Maintenance.Global = true
	h := newHouse(b, set, newFleet(ends))
	var decided atomic.Int64
	h.before = func(r *Runner) {
		r.firing.put = func(_ context.Context, events ...ledger.Event) ([]ledger.Task, error) {
			if len(events) == 2 { // a due time and its watermark
				decided.Add(1)
			}
			return nil, nil
		}
		r.firing.log = slog.New(slog.DiscardHandler)
	}
	h.start()
	time.Sleep(time.Second)
	measureCPU(b)
	h.stop()
	if decided.Load() < 400*int64(b.N) {
		b.Errorf("%d decisions", decided.Load())
	}
}

// BenchmarkScheduler is the CPU time of one second of 10,000 jobs, each due once a
// minute, in real time: what is due is found, moved on and handed over. Nothing is
// decided about it, as robfig's runner decides nothing; there it goes to a
// function that only counts.
func BenchmarkScheduler(b *testing.B) {
	jobs := busyJobs(b)
	b.Run("ours", func(b *testing.B) {
		set := setOf(jobs...)
		f := newFiring(nil, newTasks(taskOptions{Hub: newHub()}), set, slog.New(slog.DiscardHandler))
		f.table.load(set, time.Now())
		f.absences.jobs = map[string]*absence{} // where the loop hands over what is due and does no more
		for _, job := range jobs {
			f.absences.jobs[job.Name] = &absence{job: job}
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { f.loop(ctx); close(done) }()
		time.Sleep(time.Second)
		measureCPU(b)
		cancel()
		<-done
		taken := 0
		for _, of := range f.absences.jobs {
			if of.later != nil {
				taken++
			}
		}
		if taken < 400 {
			b.Errorf("%d handed over", taken)
		}
	})
	b.Run("baseline", func(b *testing.B) {
		c := cron.New()
		var called atomic.Int64
		for _, job := range jobs {
			c.Schedule(job.Schedule, cron.FuncJob(func() { called.Add(1) }))
		}
		c.Start()
		time.Sleep(time.Second)
		measureCPU(b)
		<-c.Stop().Done()
		if called.Load() < 400*int64(b.N) {
			b.Errorf("%d calls", called.Load())
		}
	})
}

// BenchmarkTimetable is the schedule alone, without goroutines and timers.
func BenchmarkTimetable(b *testing.B) {
	jobs := busyJobs(b)
	now := time.Now().Truncate(time.Second)
	table := newTimetable()
	table.load(setOf(jobs...), now)
	found := 0
	b.ResetTimer()
	for range b.N {
		now = now.Add(time.Second)
		found += len(table.take(now))
		table.earliest()
	}
	if want := b.N * len(jobs) / 60; found < want-200 || found > want+200 {
		b.Errorf("%d due of %d", found, want)
	}
}

// BenchmarkLateness is how late 1,000 jobs of one second are handed to the
// transport, each recorded twice by then: that it began and that it is launched.
// The first time they are due everything about them is new to the ledger; the
// second time is how it goes on.
func BenchmarkLateness(b *testing.B) {
	const n = 1000
	var cold, warm []time.Duration
	for range b.N {
		c, w := lateness(b, n)
		cold, warm = append(cold, c...), append(warm, w...)
	}
	slices.Sort(cold)
	slices.Sort(warm)
	at := func(all []time.Duration, p float64) float64 {
		return float64(all[int(p*float64(len(all)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(cold, 0.99), "first-p99-ms")
	b.ReportMetric(at(warm, 0.5), "p50-ms")
	b.ReportMetric(at(warm, 0.99), "p99-ms")
	b.ReportMetric(50, "p99-ms:reach")
	b.ReportMetric(at(warm, 1), "max-ms")
}

func lateness(b *testing.B, n int) (cold, warm []time.Duration) {
	due := time.Now().Truncate(time.Second).Add(3 * time.Second).UTC()
	again := due.Add(4 * time.Second)
	jobs := make([]*config.Job, n)
	for i := range jobs {
		f := everySecond
		f.Sec = fmt.Sprintf("%d,%d", due.Second(), again.Second())
		jobs[i] = scheduled(b, fmt.Sprintf("job%05d", i), f, "UTC")
		jobs[i].OnOverlap = "allow"
	}
	fleet := newFleet(stays)
	h := newHouse(b, setOf(jobs...), fleet).start()
	h.await("all are started twice", func() bool { return len(fleet.began()) == 2*n })
	h.stop()
	for _, s := range fleet.began() {
		if s.at.Before(again) {
			cold = append(cold, s.at.Sub(due))
		} else {
			warm = append(warm, s.at.Sub(again))
		}
	}
	return cold, warm
}

// BenchmarkCountDue is a month of every second, counted.
func BenchmarkCountDue(b *testing.B) {
	job := scheduled(b, "j", everySecond, "UTC")
	until := time.Date(2026, 11, 22, 12, 34, 56, 0, time.UTC)
	after := until.Add(-31*24*time.Hour - 1234*time.Second)
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if duesOf(job).in(after, until).count != 31*86400+1234 {
				b.Fatal("wrong")
			}
		}
	})
	b.Run("baseline", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for t := job.Schedule.Next(after); !t.After(until); t = job.Schedule.Next(t) {
				n++
			}
			if n != 31*86400+1234 {
				b.Fatal("wrong")
			}
		}
	})
}
