package runner

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/robfig/cron/v3"

	"saltpeter/config"
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

// BenchmarkSchedulerIdle is the CPU time of one second of a server with 10,000
// jobs of which none is due, beside robfig's runner with the same schedules. Our
// side has everything that wakes: loop, watermark, tasks.
func BenchmarkSchedulerIdle(b *testing.B) {
	jobs := idleJobs(b)
	b.Run("ours", func(b *testing.B) {
		h := newHouse(b, setOf(jobs...), newFleet(ends)).start()
		time.Sleep(200 * time.Millisecond)
		measureCPU(b)
		h.stop()
	})
	b.Run("baseline", func(b *testing.B) {
		c := cron.New()
		for _, job := range jobs {
			c.Schedule(job.Schedule, cron.FuncJob(func() {}))
		}
		c.Start()
		time.Sleep(200 * time.Millisecond)
		measureCPU(b)
		<-c.Stop().Done()
	})
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

// BenchmarkScheduler is the CPU time that one second of 10,000 jobs costs the
// schedule alone, each of them due once a minute: what is due is found and moved
// on. Time is simulated on our side; robfig's runner, which cannot be, is watched
// for a while.
func BenchmarkScheduler(b *testing.B) {
	jobs := busyJobs(b)
	b.Run("ours", func(b *testing.B) {
		now := time.Now().Truncate(time.Second)
		table := newTimetable()
		table.load(setOf(jobs...), now)
		found := 0
		before := cpuTime()
		for range b.N {
			now = now.Add(time.Second)
			found += len(table.take(now))
			table.earliest()
		}
		b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "ns/op")
		if want := b.N * len(jobs) / 60; found < want-200 || found > want+200 {
			b.Errorf("%d due of %d", found, want)
		}
	})
	b.Run("baseline", func(b *testing.B) {
		c := cron.New()
		for _, job := range jobs {
			c.Schedule(job.Schedule, cron.FuncJob(func() {}))
		}
		c.Start()
		time.Sleep(200 * time.Millisecond)
		measureCPU(b)
		<-c.Stop().Done()
	})
}

// BenchmarkLateness is how late 1,000 jobs of one second are handed to the
// transport, each recorded twice by then: that it began and that it is launched.
func BenchmarkLateness(b *testing.B) {
	const n = 1000
	var all []time.Duration
	for range b.N {
		all = append(all, lateness(b, n)...)
	}
	slices.Sort(all)
	at := func(p float64) float64 { return float64(all[int(p*float64(len(all)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
}

func lateness(b *testing.B, n int) []time.Duration {
	due := time.Now().Truncate(time.Second).Add(3 * time.Second).UTC()
	f := config.FieldTexts{Sec: fmt.Sprint(due.Second()), Min: fmt.Sprint(due.Minute()), Hour: fmt.Sprint(due.Hour()), Dom: "*", Mon: "*", Dow: "*"}
	jobs := make([]*config.Job, n)
	for i := range jobs {
		jobs[i] = scheduled(b, fmt.Sprintf("job%05d", i), f, "UTC")
	}
	fleet := newFleet(stays)
	h := newHouse(b, setOf(jobs...), fleet).start()
	h.await("all are started", func() bool { return len(fleet.began()) == n })
	h.stop()
	var late []time.Duration
	for _, s := range fleet.began() {
		late = append(late, s.at.Sub(due))
	}
	return late
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
