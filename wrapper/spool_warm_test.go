package wrapper

import (
	"bytes"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

func fill(s *spool, n int64) {
	b := s.takeBlock()
	s.AppendBlock(b, copy(b.buf, printed(s.Length(), n)), wire.Stdout, time.Now())
}

// What is lent stays as it is, however much is printed meanwhile, and there are
// never more blocks than agreed.
func TestLentBlockStays(t *testing.T) {
	s := newSpool(spoolOptions{Dir: t.TempDir()})
	defer s.Close()
	fill(s, pumpMax)
	data, stream := s.Lend(100, pumpMax)
	if len(data) != pumpMax-100 || stream != wire.Stdout {
		t.Fatalf("lent %d bytes of stream %d", len(data), stream)
	}
	for range 3 * warmBlocks {
		fill(s, pumpMax)
	}
	if !bytes.Equal(data, printed(100, pumpMax-100)) {
		t.Error("lent bytes have changed")
	}
	s.Return()
	if len(s.warm) > warmBlocks {
		t.Errorf("%d blocks", len(s.warm))
	}
	if data, _ := s.Lend(s.Length()-10, pumpMax); !bytes.Equal(data, printed(s.Length()-10, 10)) {
		t.Errorf("the last bytes are not at hand, %d are", len(data))
	}
	s.Return()
	s.coolDown()
	if data, _ := s.Lend(s.Length()-10, pumpMax); data != nil {
		t.Error("bytes are at hand although everything was let go")
	}
}

// Bytes that the server lost after they were given back are told of as lost; a
// block must not show them where others lie by now.
func TestBlockOfSegmentThatIsGone(t *testing.T) {
	s := newSpool(spoolOptions{Dir: t.TempDir(), Max: minMax})
	defer s.Close()
	fill(s, 200<<10)
	if data, _ := s.Lend(0, pumpMax); data == nil {
		t.Fatal("nothing is at hand")
	}
	s.Acked(s.Length())
	fill(s, 200<<10)
	s.Return()
	if s.base == 0 {
		t.Fatal("nothing was given back")
	}
	at := s.base / 2
	s.Acked(at)
	buf := make([]byte, pumpMax)
	n, stream, err := s.ReadAt(buf, at)
	if err != nil || stream != wire.Stderr {
		t.Fatalf("%q, stream %d, %v", buf[:n], stream, err)
	}
	at += int64(n)
	data, _ := s.Lend(at, pumpMax)
	k, _, err := s.ReadAt(buf, at)
	if k = min(k, len(data)); err != nil || !bytes.Equal(data[:k], buf[:k]) {
		t.Errorf("memory shows other bytes than the file (%v)", err)
	}
	s.Return()
}

// A road that does not move costs a job a moment each few blocks, and no more.
func TestPumpLeavesStuckRoad(t *testing.T) {
	s := newSpool(spoolOptions{Dir: t.TempDir()})
	defer s.Close()
	p := pacer{s: s}
	waited := 0
	for range 2 * roadPause {
		fill(s, pumpMax)
		start := time.Now()
		skipping := p.skip > 0
		p.wait()
		if !skipping && time.Since(start) >= roadMoves {
			waited++
		}
	}
	if waited > 2 {
		t.Errorf("waited %d times in %d blocks", waited, 2*roadPause)
	}
}
