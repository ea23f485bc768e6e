package wrapper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

const (
	pickupEvery  = time.Minute         // wrappers look no more often than that
	pickupWait   = time.Minute         // for a server, and for progress with it
	pickupExpiry = 30 * 24 * time.Hour // what nobody wanted for so long is deleted
	pickupAtOnce = 4
	pickupStamp  = ".pickup"
	halfMade     = time.Hour // a directory that never got its name
)

// collector delivers what dead wrappers left in a spool root: output and end of
// tasks that are over. A lock in each directory makes sure that one does it.
type collector struct {
	root   string
	server *string // only of this server; nil: of all
	log    *taskLog
}

// pickupDue reports whether nobody looked into the root lately, and says that
// the caller does now.
func pickupDue(root string, now time.Time) bool {
	stamp := filepath.Join(root, pickupStamp)
	if info, err := os.Stat(stamp); err == nil && now.Sub(info.ModTime()) < pickupEvery {
		return false
	}
	f, err := os.OpenFile(stamp, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return false
	}
	defer f.Close()
	return os.Chtimes(stamp, now, now) == nil
}

// lookLater looks once for others' spools, if the job runs long enough.
func (t *task) lookLater(ctx context.Context, root string) {
	if root == "" {
		return
	}
	timer := time.NewTimer(pickupAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	if pickupDue(root, time.Now()) {
		_ = (&collector{root: root, server: &t.order.Server, log: t.log}).run(ctx)
	}
}

// run looks at every directory once.
func (c *collector) run(ctx context.Context) error {
	entries, err := os.ReadDir(c.root)
	if err != nil {
		return fmt.Errorf("cannot look into the spool: %w", err)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, pickupAtOnce)
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name() == logDirName || ctx.Err() != nil {
			continue
		}
		d := &taskDir{path: filepath.Join(c.root, entry.Name())}
		if strings.HasPrefix(entry.Name(), ".new-") {
			if d.age(time.Now()) > halfMade {
				d.remove()
			}
			continue
		}
		meta, mine := c.claim(d)
		if !mine {
			d.release()
			continue
		}
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer func() { <-slots; wg.Done() }()
			c.deliver(ctx, d, meta)
		}()
	}
	wg.Wait()
	return nil
}

// claim takes the lock of a directory whose wrapper is dead and whose job is
// over.
func (c *collector) claim(d *taskDir) (taskMeta, bool) {
	meta, err := d.readMeta()
	if err != nil {
		return meta, false // not a task's directory
	}
	if c.server != nil && meta.Order.Server != *c.server {
		return meta, false
	}
	if err := d.take(); err != nil {
		if !errors.Is(err, errOwned) {
			c.log.Printf("cannot take over %s: %v", d.path, err)
		}
		return meta, false
	}
	// Again under the lock: its owner may have finished in between.
	if meta, err = d.readMeta(); err != nil {
		return meta, false
	}
	if jobLives(meta.Identity) {
		return meta, false // the server has other roads to it; its end is not known yet
	}
	return meta, true
}

// deliver brings one task's output and end to its server.
func (c *collector) deliver(ctx context.Context, d *taskDir, meta taskMeta) {
	o := &meta.Order
	e, err := d.foundEnd(meta)
	var s *spool
	if err == nil {
		s, err = openSpool(d.path)
	}
	if err != nil {
		c.log.Printf("cannot deliver run %s: %v", o.Run, err)
		d.release()
		return
	}
	s.MarkEnd()
	var rep *reporter
	rep = newReporter(reporterOptions{Order: o, Spool: s, Log: c.log, OnAsk: func(m *wire.Message) {
		if m.Type == wire.TypeKill {
			rep.Killed(m.ID)
		}
		rep.Report(m.ID, notRunning(m.Type, ""))
	}})
	started := time.Time{}
	if meta.Identity != nil {
		started = e.at.Add(-time.Duration(e.end.ElapsedMS * float64(time.Millisecond)))
	}
	rep.Start(ctx)
	rep.Finish(e)
	rep.Ready(meta.Identity, started)
	delivered := waitDelivered(ctx, rep, s)
	rep.Stop()
	s.Close()
	switch {
	case delivered:
		c.log.Printf("delivered run %s, whose wrapper was gone: code %d, %d bytes", o.Run, e.code, s.End())
		d.remove()
	case d.age(time.Now()) > pickupExpiry:
		c.log.Printf("nobody wanted the output of run %s for %s: deleted", o.Run, pickupExpiry)
		d.remove()
	default:
		d.release()
	}
}

// waitDelivered waits as long as there is progress.
func waitDelivered(ctx context.Context, rep *reporter, s *spool) bool {
	timer := time.NewTimer(pickupWait)
	defer timer.Stop()
	acked := s.ackedOffset()
	for !rep.Quiet() {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return rep.Delivered()
		case <-rep.news:
		}
		if rep.Refused() {
			return false
		}
		if now := s.ackedOffset(); now != acked {
			acked = now
			timer.Reset(pickupWait)
		}
	}
	return true
}

// foundEnd is the end as the record has it. Without one nobody saw the end, and
// the real code is not known.
func (d *taskDir) foundEnd(meta taskMeta) (owedEnd, error) {
	record, err := d.readEnd()
	if err != nil {
		return owedEnd{}, err
	}
	if record != nil {
		return owedEnd{
			code: record.RetCode, end: record.End, err: record.Error,
			at: wire.ParseTime(record.Ended, time.Now()),
		}, nil
	}
	if meta.Identity == nil {
		// No identity was written, so the gate never opened.
		return owedEnd{
			code: wire.ExitUnreachable, end: wire.End{Cause: wire.CauseLaunch}, at: time.Now(),
			err: "cannot start: the wrapper died before the command began",
		}, nil
	}
	return owedEnd{code: wire.ExitLost, end: wire.End{Cause: wire.CauseLost}, at: time.Now()}, nil
}

// jobLives reports whether the main process of a task is still there.
func jobLives(id *wire.Identity) bool {
	if id == nil {
		return false
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil && strings.TrimSpace(string(boot)) != id.BootID {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(id.PID) + "/stat")
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true // not to be known: hands off
	}
	// Fields count from the state, behind the last parenthesis: command names
	// are hostile text. The start time is field 22 of the whole line.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return true
	}
	if fields[19] != strconv.FormatUint(id.StartTicks, 10) {
		return false
	}
	threads := fields[17]
	return fields[0] != "X" && (fields[0] != "Z" || threads != "0" && threads != "1")
}
