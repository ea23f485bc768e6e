package wrapper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"saltpeter/wsx/wire"
)

// segment is one output file with its index: a run of the stream's bytes, or
// the marker that stands for bytes which were given up. Its spool's mu guards
// it, except that the one appender writes to the file outside of it.
type segment struct {
	dir    string // "" = in memory
	number int
	start  int64 // offset of its first byte in the stream
	size   int64
	lost   int64  // > 0: a marker for so many bytes
	why    string // they were given up
	mem    []byte
	file   *os.File // while it is written to
	index  *os.File

	recs        []record // complete for the last segment and in memory; else nil, see spool.records
	recCount    int
	lastStream  byte
	lastTime    time.Time
	lostWritten int64 // what the marker on disk says
}

// record says from where on in its segment bytes belong to a stream, and when
// the first of them was read. Files hold it as 16 bytes, big-endian: offset (4),
// stream (1), 3 unused, microseconds since 1970 (8).
type record struct {
	offset uint32
	stream byte
	micros int64
}

const recordSize = 16

func (r record) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, r.offset)
	dst = append(dst, r.stream, 0, 0, 0)
	return binary.BigEndian.AppendUint64(dst, uint64(r.micros))
}

// parseRecords reads an index file. What a crash cut off at its end, or what is
// out of order, ends the reading: the bytes belong to the last good record then.
func parseRecords(data []byte) []record {
	var recs []record
	for ; len(data) >= recordSize; data = data[recordSize:] {
		r := record{binary.BigEndian.Uint32(data), data[4], int64(binary.BigEndian.Uint64(data[8:]))}
		if r.stream != wire.Stdout && r.stream != wire.Stderr {
			break
		}
		if n := len(recs); n > 0 && r.offset < recs[n-1].offset {
			break
		}
		recs = append(recs, r)
	}
	return recs
}

func (g *segment) end() int64    { return g.start + g.size }
func (g *segment) weight() int64 { return g.size + int64(g.recCount)*recordSize }

// takes reports whether more output may be added to it.
func (g *segment) takes(size int64) bool {
	return g.size < size && g.recCount < segmentRecs && g.lost == 0 && (g.file != nil || g.dir == "")
}

func segmentName(number int) string { return fmt.Sprintf("output.%06d", number) }
func indexName(number int) string   { return fmt.Sprintf("index.%06d", number) }

func (g *segment) path() string      { return filepath.Join(g.dir, segmentName(g.number)) }
func (g *segment) indexPath() string { return filepath.Join(g.dir, indexName(g.number)) }

func (g *segment) create() error {
	if g.dir == "" {
		return nil
	}
	var err error
	flags := os.O_CREATE | os.O_EXCL | os.O_RDWR | os.O_APPEND
	if g.file, err = os.OpenFile(g.path(), flags, 0o600); err != nil {
		return err
	}
	if g.index, err = os.OpenFile(g.indexPath(), flags, 0o600); err != nil {
		g.file.Close()
		os.Remove(g.path())
		g.file = nil
	}
	return err
}

// write puts bytes at the end of the file. The caller counts them with commit,
// which also keeps them where there is no file.
func (g *segment) write(data []byte) (int, error) {
	if g.dir == "" {
		return len(data), nil
	}
	return g.file.Write(data)
}

// note adds a record for bytes that come at the present end, unless the last one
// covers them: same stream, same second. It returns what that weighs.
func (g *segment) note(stream byte, now time.Time) int64 {
	if g.recCount > 0 && stream == g.lastStream && now.Sub(g.lastTime) < time.Second {
		return 0
	}
	r := record{uint32(g.size), stream, now.UnixMicro()}
	g.recs = append(g.recs, r)
	g.recCount++
	g.lastStream, g.lastTime = stream, now
	if g.index != nil {
		// A record that is lost here costs a time, not a byte.
		_, _ = g.index.Write(r.append(nil))
	}
	return recordSize
}

// finish closes the files of a segment that takes no more.
func (g *segment) finish() {
	if g.file == nil {
		return
	}
	g.file.Close()
	g.index.Close()
	g.file, g.index = nil, nil
	if len(g.recs) > 16 {
		g.recs = nil // read from the file when needed: many segments must not add up
	}
}

// becomeMarker replaces the content by a marker that counts lost bytes.
func (g *segment) becomeMarker(lost int64, toDisk bool) {
	g.finish()
	g.mem = lossMarker(lost, g.why)
	g.size = int64(len(g.mem))
	g.lost = lost
	g.recs = []record{{0, wire.Stderr, time.Now().UnixMicro()}}
	g.recCount = 1
	if g.dir == "" || !toDisk {
		return
	}
	g.lostWritten = lost
	// Best effort: the road sends what is in memory; the files serve pickup.
	for path, data := range map[string][]byte{g.indexPath(): g.recs[0].append(nil), g.path(): g.mem} {
		if writeFile(path, data) != nil && os.Truncate(path, 0) == nil {
			// A full disk: the file's own room, just given back, is enough.
			_ = os.WriteFile(path, data, 0o600)
		}
	}
}

func (g *segment) remove() {
	g.finish()
	g.mem, g.recs = nil, nil
	if g.dir != "" {
		os.Remove(g.path())
		os.Remove(g.indexPath())
	}
}

// spoolBase says where the first kept segment stands in the stream, once acked
// ones before it have been given back.
type spoolBase struct {
	First  int
	Offset int64
}

const (
	baseName   = "base"
	baseFormat = "%010d %020d\n"
)

// write changes the file in place: it exists since the second segment began, so
// that a disk which is full by now takes it all the same.
func (b spoolBase) write(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, baseName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, baseFormat, b.First, b.Offset)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func readBase(dir string) (spoolBase, error) {
	var b spoolBase
	data, err := os.ReadFile(filepath.Join(dir, baseName))
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		_, err = fmt.Sscanf(string(data), "%d %d", &b.First, &b.Offset)
	}
	if err != nil {
		return b, fmt.Errorf("cannot read the spool %s: %w", dir, err)
	}
	return b, nil
}

// openSpool reads what a dead wrapper left in a task's directory.
func openSpool(dir string) (*spool, error) {
	s := newSpool(spoolOptions{Dir: dir})
	base, err := readBase(dir)
	if err != nil {
		return nil, err
	}
	s.base = base.Offset
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("cannot read the spool: %w", err)
	}
	for _, e := range entries {
		var number int
		if n, _ := fmt.Sscanf(e.Name(), "output.%d", &number); n != 1 || segmentName(number) != e.Name() || number < base.First {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("cannot read the spool: %w", err)
		}
		seg := &segment{dir: dir, number: number, size: info.Size()}
		if index, err := os.Stat(seg.indexPath()); err == nil {
			seg.recCount = int(index.Size() / recordSize)
		}
		s.segs = append(s.segs, seg)
		s.held += seg.weight()
		s.next = number + 1
	}
	s.renumber()
	s.lifted = true
	return s, nil
}

// writeFile puts a whole file in place, or leaves the old one.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// freePercent is how much of dir's file system is free for its user; what can't
// be asked counts as free.
func freePercent(dir string) int {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Blocks == 0 {
		return 100
	}
	return int(fs.Bavail * 100 / fs.Blocks)
}
