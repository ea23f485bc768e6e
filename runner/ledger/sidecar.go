package ledger

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// A task's output is two files: NUM.out holds its bytes as they came and nothing
// else; NUM.idx, the sidecar, says where which stream begins, when it came, and
// which frame it was. The sidecar begins with a line for people (it names the
// task); rows of fixed size follow.
//
// What makes a crash at any point harmless is the order of the two writes:
//
//   - Bytes with offsets, and text without seq, are never sent twice without our
//     knowing: their row is written first and is open-ended. All bytes behind it
//     count, however far the write came.
//   - A frame with seq is sent again unless its row is there: its bytes are
//     written first, and its row says where they end. Bytes behind the end of the
//     last such row are of a frame that will come again: they are cut off.
//   - Where the first follows the second nothing is needed; where a frame with
//     seq follows open-ended bytes, a row of kind cut ends those before the
//     frame's own bytes are written.
const (
	rowOpen byte = 1 // bytes from offset on, without an end of their own
	rowSeq  byte = 2 // the bytes of one frame, offset to end
	rowCut  byte = 3 // nothing: ends what is open at offset
	rowMark byte = 4 // the time of the byte at offset; no bytes of its own
)

// What a row is made of: offset, end, time and seq (8 bytes each), stream, kind,
// two unused, and a checksum over those: a machine that loses its power may leave
// rows of zeros.
const (
	rowSize = 40
	rowBody = 36
)

const sidecarLine = "saltpeter output 1 "

type sidecarRow struct {
	offset, end int64
	at          int64 // nanoseconds
	seq         int64 // of the last frame with seq up to here, -1 before the first
	stream      byte
	kind        byte
}

func (r sidecarRow) encode() []byte {
	b := make([]byte, rowSize)
	binary.BigEndian.PutUint64(b, uint64(r.offset))
	binary.BigEndian.PutUint64(b[8:], uint64(r.end))
	binary.BigEndian.PutUint64(b[16:], uint64(r.at))
	binary.BigEndian.PutUint64(b[24:], uint64(r.seq))
	b[32], b[33] = r.stream, r.kind
	binary.BigEndian.PutUint32(b[rowBody:], crc32.ChecksumIEEE(b[:rowBody]))
	return b
}

// decodeRow reads a row; false if it is not whole.
func decodeRow(b []byte) (sidecarRow, bool) {
	if len(b) < rowSize || crc32.ChecksumIEEE(b[:rowBody]) != binary.BigEndian.Uint32(b[rowBody:]) {
		return sidecarRow{}, false
	}
	r := sidecarRow{
		offset: int64(binary.BigEndian.Uint64(b)),
		end:    int64(binary.BigEndian.Uint64(b[8:])),
		at:     int64(binary.BigEndian.Uint64(b[16:])),
		seq:    int64(binary.BigEndian.Uint64(b[24:])),
		stream: b[32],
		kind:   b[33],
	}
	return r, r.kind >= rowOpen && r.kind <= rowMark && r.offset >= 0 && r.end >= r.offset && r.seq >= -1
}

// sidecarHead is the line for people.
func sidecarHead(id TaskID) ([]byte, error) {
	data, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	return []byte(sidecarLine + string(data) + "\n"), nil
}

// headLength is where the rows begin; 0 if the line is not whole.
func headLength(idx io.ReaderAt) (int64, error) {
	line, err := bufio.NewReader(io.NewSectionReader(idx, 0, 1<<20)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(line, sidecarLine) {
		return 0, fmt.Errorf("it begins with %.40q: not written by this version", line)
	}
	return int64(len(line)), nil
}

// extent is how far a pair of files holds good.
type extent struct {
	length int64      // bytes that count
	rows   int64      // where the good rows end in the sidecar
	last   sidecarRow // the last row that is not a mark; kind 0: none
	seq    int64
}

// measure finds the extent from the end of both files. The sidecar must have been
// looked at before the data: while a writer goes on, its rows never promise more
// than is there.
func measure(idx io.ReaderAt, head, idxSize int64, dataSize func() (int64, error)) (extent, error) {
	x := extent{rows: head, seq: -1}
	n := max(0, idxSize-head) / rowSize
	var rows []sidecarRow // read from the end, with what follows a broken one dropped
	buf := make([]byte, 8*rowSize)
	// Nearly always the last row is a good one; only marks and the remains of a
	// power loss make the search longer.
	size := int64(-1)
	for end := n; end > 0; {
		from := max(0, end-8)
		part := buf[:(end-from)*rowSize]
		if _, err := idx.ReadAt(part, head+from*rowSize); err != nil {
			return x, err
		}
		if size < 0 {
			var err error
			if size, err = dataSize(); err != nil {
				return x, err
			}
		}
		for i := end - 1; i >= from; i-- {
			r, ok := decodeRow(part[(i-from)*rowSize:])
			if !ok || (r.kind != rowMark && r.end > size) {
				rows = rows[:0]
				continue
			}
			if len(rows) == 0 {
				x.rows, x.seq = head+(i+1)*rowSize, r.seq
				rows = append(rows, r)
			}
			if r.kind == rowMark {
				continue
			}
			x.last, x.length = r, r.end
			if r.kind == rowOpen {
				x.length = size
			}
			return x, nil
		}
		end = from
	}
	x.rows, x.seq = head, -1 // nothing but marks of bytes that are not there
	return x, nil
}

// Row is one line of the sidecar: from Offset on, bytes are of Stream and came at At.
type Row struct {
	Offset int64
	At     time.Time
	Stream byte
	Seq    int64 // -1 where the frame had none
}

// readRows reads the good rows below an extent.
func readRows(idx *os.File, head int64, x extent) ([]Row, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(idx, head, x.rows-head), 64<<10)
	var rows []Row
	var marks []sidecarRow
	buf := make([]byte, rowSize)
	for {
		if _, err := io.ReadFull(in, buf); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return nil, err
		}
		r, ok := decodeRow(buf)
		switch {
		case !ok || r.offset >= x.length || r.kind == rowCut || (r.kind == rowSeq && r.end == r.offset):
		case r.kind == rowMark:
			marks = append(marks, r)
		default:
			row := Row{Offset: r.offset, At: instant(r.at), Stream: r.stream, Seq: -1}
			if r.kind == rowSeq {
				row.Seq = r.seq
			}
			rows = append(rows, row)
		}
	}
	return withMarks(rows, marks), nil
}

// withMarks puts the times that marks tell into the rows. A row has the time at
// which the bytes reached the server, which after a cut link is later than a mark
// that follows says it can have been: marks win.
func withMarks(rows []Row, marks []sidecarRow) []Row {
	if len(marks) == 0 || len(rows) == 0 {
		return rows
	}
	slices.SortStableFunc(marks, func(a, b sidecarRow) int { return cmp.Compare(a.offset, b.offset) })
	all := make([]Row, 0, len(rows)+len(marks))
	told := make([]bool, 0, len(rows)+len(marks))
	i := 0
	for _, m := range marks {
		for i < len(rows) && rows[i].Offset <= m.offset {
			all, told = append(all, rows[i]), append(told, false)
			i++
		}
		if len(all) == 0 {
			continue
		}
		if last := len(all) - 1; all[last].Offset == m.offset {
			all[last].At, told[last] = instant(m.at), true
			continue
		}
		all, told = append(all, Row{Offset: m.offset, At: instant(m.at), Stream: all[len(all)-1].Stream, Seq: -1}), append(told, true)
	}
	for ; i < len(rows); i++ {
		all, told = append(all, rows[i]), append(told, false)
	}
	var bound time.Time
	for j := len(all) - 1; j >= 0; j-- {
		if told[j] {
			bound = all[j].At
		} else if !bound.IsZero() && all[j].At.After(bound) {
			all[j].At = bound
		}
	}
	bound = time.Time{}
	for j := range all {
		if told[j] {
			bound = all[j].At
		} else if all[j].At.Before(bound) {
			all[j].At = bound
		}
	}
	return all
}
