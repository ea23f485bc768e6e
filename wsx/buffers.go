package wsx

import "sync"

const (
	// smallRead holds an ack, a heartbeat, a start: what nearly every message is.
	smallRead = 4 << 10
	// largeRead holds a whole output frame of a Link.
	largeRead = frameMax + 64
	// keepRead is the largest buffer that goes back into a pool: one first
	// generation `complete` must not keep 64 MiB alive.
	keepRead = 2 << 20
)

// buffers are shared by all connections of a Server (or by the successive ones
// of a Link): a connection that waits for a message holds none of them, which
// is what keeps ten thousand idle ones small.
type buffers struct {
	write sync.Pool // gorilla's, see websocket.BufferPool
	small sync.Pool // *[]byte
	large sync.Pool // *[]byte
}

func (b *buffers) getSmall() *[]byte {
	if p, ok := b.small.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, smallRead)
	return &p
}

func (b *buffers) getLarge() *[]byte {
	if p, ok := b.large.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, largeRead)
	return &p
}

func (b *buffers) put(p *[]byte) {
	switch n := cap(*p); {
	case n <= smallRead:
		b.small.Put(p)
	case n <= keepRead:
		b.large.Put(p)
	}
}

// grow returns a larger buffer that begins with what p holds, and takes p back.
// Nothing is allocated ahead of the bytes that came, whatever a frame's header
// says is still to come.
func (b *buffers) grow(p *[]byte) *[]byte {
	var q *[]byte
	if cap(*p) < largeRead {
		q = b.getLarge()
	} else {
		s := make([]byte, 2*cap(*p))
		q = &s
	}
	copy(*q, *p)
	b.put(p)
	return q
}
