package wire

import (
	"encoding/binary"
	"errors"
)

// Stream numbers of a binary output frame.
const (
	Stdout byte = 1
	Stderr byte = 2
)

// OutputHeader is the length of what precedes the data in a binary output
// frame: an 8-byte big-endian offset into the task's output and 1 byte stream.
const OutputHeader = 9

// AppendOutput appends one binary output frame to dst and returns it.
func AppendOutput(dst []byte, offset int64, stream byte, data []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(offset))
	dst = append(dst, stream)
	return append(dst, data...)
}

// ParseOutput splits a binary output frame. The data is a part of frame, not a
// copy.
func ParseOutput(frame []byte) (offset int64, stream byte, data []byte, err error) {
	if len(frame) < OutputHeader {
		return 0, 0, nil, errors.New("cannot read output frame: shorter than its header")
	}
	offset = int64(binary.BigEndian.Uint64(frame))
	stream = frame[8]
	if offset < 0 || offset+int64(len(frame)) < offset {
		return 0, 0, nil, errors.New("cannot read output frame: its offset is out of range")
	}
	if stream != Stdout && stream != Stderr {
		return 0, 0, nil, errors.New("cannot read output frame: its stream is neither 1 nor 2")
	}
	return offset, stream, frame[OutputHeader:], nil
}

// StreamName is the stream as JSON frames call it.
func StreamName(stream byte) string {
	if stream == Stderr {
		return "stderr"
	}
	return "stdout"
}

// StreamNumber is the inverse of StreamName; what is not "stderr" is stdout.
func StreamNumber(name string) byte {
	if name == "stderr" {
		return Stderr
	}
	return Stdout
}
